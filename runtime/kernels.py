"""A rule's token-by-token kernels as files in the cache, and as a memory that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from torch import Tensor

from miras_dsl.codegen.model import model_of
from miras_dsl.codegen.recurrent_text import recurrence_name, recurrent_module
from miras_dsl.codegen.update import UpdateRule, update_of
from miras_dsl.spec import MemorySpec

from . import cache
from .build import Run, adapted
from .launch import Recurrence
from .recurrent import recurrent


def kernels_of(rule: UpdateRule) -> Recurrence:
    """The kernels of a rule, written to the cache and imported.  ValueError where it has none."""
    module = cache.import_module(cache.put(recurrent_module(rule)))
    return getattr(module, recurrence_name(rule))


@lru_cache(maxsize=64)
def _loaded(spec: MemorySpec) -> tuple[UpdateRule, Recurrence]:
    rule = update_of(model_of(spec))
    return rule, kernels_of(rule)


def implementation(
    spec: MemorySpec, *, values: int | None = None
) -> Callable[[Mapping[str, int]], Run]:
    """The kernels of a memory as the judge calls them: sizes -> (inputs, state, cu_seqlens).

    values  how many values a program holds; None leaves it to the launcher
    """
    rule, kernels = _loaded(spec)

    def memory(
        *, state: Mapping[str, Tensor], cu_seqlens: Tensor | None = None, **feeds: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return recurrent(kernels, feeds, state, cu_seqlens, values=values)

    return lambda sizes: adapted(rule, sizes, memory)
