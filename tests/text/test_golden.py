"""What each stage says about two memories, word for word: a change of the compiler shows as text.

`--update-golden` writes `golden/<stage>/<memory>.txt` anew; read the difference before keeping it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from miras_dsl.codegen.emit.torch.memory import update_equations
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.ir import Input, Node
from miras_dsl.ir.printer import print_program, program_lines
from tests.meaning.derived import compiled

GOLDEN = Path(__file__).with_name("golden")


def law(memory: CompiledMemory) -> str:
    return "\n".join(update_equations(memory.rule))


def schedule(memory: CompiledMemory) -> str:
    """Every step of the chunk form and its reverse, with the part in which it runs."""
    found = []
    for title, cut in (
        ("forwards", memory.forward_schedule),
        ("backwards", memory.backward_schedule),
    ):
        assert cut is not None
        found.append(title)
        for name, part in (("before", cut.before), ("loop", cut.loop), ("after", cut.after)):
            if part is None:
                continue
            count = f"{len(part.nodes)} operations"
            takes = ", ".join(sorted(_name(node) for node in part.takes))
            found.append(f"  {name}: {count}, gives {len(part.gives)}, takes {takes}")
            kinds = [type(node).__name__ for node in part.nodes]
            counts = (f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
            found.append(f"    {', '.join(counts)}")
        found += [f"  {part} | {name} = {text}" for part, name, text in program_lines(cut.program)]
    return "\n".join(found)


def code(memory: CompiledMemory) -> str:
    """The generated functions; of a large memory those of the forward walk only."""
    lead, _, _ = memory.text.partition(f"def {memory.prefix}_back_before")
    return memory.text if len(memory.text) < 12_000 else lead


def _name(node: Node) -> str:
    return node.name if isinstance(node, Input) else type(node).__name__


STAGES: Mapping[str, Callable[[CompiledMemory], str]] = {
    "law": law,
    "rule": lambda memory: print_program(memory.rule.program),
    "schedule": schedule,
    "code": code,
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", ["DeltaNet", "Yaad"])
def test_text_of_a_stage(name: str, stage: str, update_golden: bool) -> None:
    text = STAGES[stage](compiled(name)).strip("\n") + "\n"
    path = GOLDEN / stage / f"{name.lower()}.txt"
    if update_golden:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, "if it is meant: --update-golden"


def test_there_is_no_golden_text_that_nobody_checks() -> None:
    found = {str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*.txt")}
    assert found == {f"{stage}/{name}.txt" for stage in STAGES for name in ("deltanet", "yaad")}
