"""Chunk programs opened into blocks, compared with the programs themselves, and so their adjoints.

No module that is generated has blocks, so no certificate sees a fault of their operations; this does.
"""

from __future__ import annotations

from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.blocks.axes import block_sizes
from miras_dsl.codegen.passes.lower_blocks import lower_blocks
from miras_dsl.codegen.pipeline import compile_memory
from miras_dsl.ir import I, J, L, M
from miras_dsl.spec import MemorySpec
from tests.meaning.compare_programs import differences
from tests.meaning.derived import extents

TOKENS, BOUND = 48, 1e-9


def wrong_in_blocks(spec: MemorySpec) -> list[tuple[str, str]]:
    """What is not as in the program without blocks: (comparison, quantity)."""
    memory = compile_memory(spec)
    assert memory.form is not None
    program = memory.form.program
    back = adjoint(program)
    sizes = extents(memory.rule) | block_sizes(TOKENS) | dict.fromkeys((I, J, L, M), TOKENS)
    logs = [feed.name for feed in memory.rule.inputs if feed.log]
    opened = lower_blocks(program, TOKENS)
    pairs = {
        "blocks": (program, opened),
        "adjoint in blocks": (back, lower_blocks(back, TOKENS)),
        "adjoint of blocks": (back, adjoint(opened)),
    }
    return [
        (check, name.replace("d_", "d "))
        for check, (wanted, found) in pairs.items()
        for name, far in differences(wanted, found, sizes, logs).items()
        if not far < BOUND
    ]
