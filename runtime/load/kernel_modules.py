"""A rule's token-by-token kernels as files in the cache, and as a memory that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.emit.identifiers import snake_case
from miras_dsl.codegen.emit.triton.module import kernel_module, table_name
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.codegen.plan.token_kernels import token_plan
from miras_dsl.runtime.execute.packed import Packed
from miras_dsl.runtime.execute.program_table import MemoryTable
from miras_dsl.runtime.kernels.launch_config import Recurrence
from miras_dsl.runtime.run import MemoryOp, run
from miras_dsl.spec import MemorySpec

from . import cache
from .loader import Run, as_oracle_function, compiled


def kernels_of(rule: UpdateRule) -> Recurrence:
    """The kernels of a rule, written to the cache and imported.  ValueError where it has none."""
    prefix = snake_case(rule.name)
    text = kernel_module(token_plan(rule, prefix), prefix)
    return getattr(cache.import_module(cache.put(text)), table_name(prefix))


def tables(spec: MemorySpec) -> tuple[CompiledMemory, MemoryTable, Recurrence]:
    """A memory compiled with its kernels: its stages, its table and theirs.

    ValueError where it has none.
    """
    made, module = compiled(spec, kernels=True)
    if not made.kernels:
        raise ValueError(f"{spec.name} has no kernels")
    found = list(vars(module).values())
    table = next(x for x in found if isinstance(x, MemoryTable))
    return made, table, next(x for x in found if isinstance(x, Recurrence))


def implementation(
    spec: MemorySpec, *, values: int | None = None
) -> Callable[[Mapping[str, int]], Run]:
    """The kernels of a memory as the judge calls them: sizes -> (inputs, state, cu_seqlens).

    values  how many values a program holds; None leaves it to the launcher

    Nothing but the kernels answers, one token or many.  ValueError where the memory has none.
    """
    made, table, kernels = tables(spec)
    op = MemoryOp(table, replace(kernels, values=values))

    def memory(
        *,
        state: Mapping[str, Tensor],
        cu_seqlens: Packed = None,
        attention_mask: Tensor | None = None,
        **feeds: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return run(op, feeds, state, cu_seqlens, attention_mask, form="kernel")

    return lambda sizes: as_oracle_function(spec, made.rule, sizes, memory)
