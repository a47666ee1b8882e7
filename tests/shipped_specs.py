"""The shipped specs as cases of tests: by memory, by file and by layer.

A memory whose programs have the shape of another shipped one's differs from it in a formula.  What
holds for every memory is tested on it too, but where a test is about shapes and texts, only by
`make test-all`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.resources import files
from typing import Any

import pytest

import miras_dsl as miras
from miras_dsl.check.layers import uses
from miras_dsl.spec import FileSpec

REPEATED = frozenset({
    "AbsoluteError", "CubedError", "HuberChannels", "HeavyTails", "ValueShift", "EraseAndHold",
    "QDelta", "Comba", "HGRN2", "MinGRU", "Mamba2", "TitansLinear", "MonetaPrinted", "TTTLinear",
    "SoftThreshold", "Raven", "Lightning", "RetNet",
})  # fmt: skip
"""Memories whose programs have the shape of another shipped memory's."""
SOLVED = frozenset({"ElasticNet"})
"""Memories for which the oracle solves an equation for every weight: minutes for what others take
seconds for."""

SPANNING = frozenset({
    "LinearAttention", "GLA", "HGRN", "DeltaNet", "GatedDeltaNet", "DeltaProduct", "RWKV7",
    "LogCoshMomentum", "HuberLength", "Titans", "Yaad", "Memora", "MLSTM", "Mamba3",
})  # fmt: skip
"""Memories of every class, architecture and kind of state: for tests that take seconds for each."""

_NAMES = {
    "additive": "LinearAttention RetNet Lightning GLA HGRN HGRN2 Mamba2 RWKV6 MinGRU SWLA "
    "DFW GSA Raven MLSTM LRU Mamba3 NormalisedAttention",
    "affine": "DeltaNet GatedDeltaNet DeltaProduct RWKV7 KDA Comba GatedDeltaNet2 MomentumDeltaNet "
    "QDelta TitansLinear PreconditionedGDN",
    "substitution": "LogCoshMomentum ValueShift AbsoluteError CubedError HuberChannels HuberLength "
    "HeavyTails EraseAndHold Longhorn",
    "anchored": "TTTLinear TTTMLP Titans Yaad Memora Moneta MonetaPrinted",
    "sweeps": "YaadSweeps",
    "token by token": "OmegaNet ChannelMomentum Atlas ElasticNet SoftThreshold BoundedMemory M2RNN",
}
FAMILIES = {name: family for family, names in _NAMES.items() for name in names.split()}
"""Every shipped memory -> how its writes are found."""


Case = Callable[[Any, Iterable[str]], Any]


def case(value: Any, memories: Iterable[str]) -> Any:
    """A value as a case; `thorough` where all its memories are in `REPEATED` or `SOLVED`."""
    again = all(name in REPEATED | SOLVED for name in memories)
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.thorough) if again else value


def spanning_case(value: Any, memories: Iterable[str]) -> Any:
    """A value as a case; `thorough` where none of its memories is in `SPANNING`."""
    among = any(name in SPANNING for name in memories)
    values = value if isinstance(value, tuple) else (value,)
    return value if among else pytest.param(*values, marks=pytest.mark.thorough)


@cache
def parsed() -> dict[str, FileSpec]:
    """Every shipped file by its name without `.mem`."""
    folder = files("miras_dsl.specs")
    stems = sorted(p.name.removesuffix(".mem") for p in folder.iterdir() if p.name.endswith(".mem"))
    return {stem: miras.parse(stem) for stem in stems}


def is_alone(name: str) -> bool:
    """Whether a memory has no hidden axis and no learned constants of a network: then it has kernels."""
    (spec,) = (spec.memories[name] for spec in parsed().values() if name in spec.memories)
    axes = {axis for state in spec.states for axis in state.axes}
    return axes <= {"value", "key"} and not spec.network.params


def by_file(suffix: str = "", case: Case = case) -> list[Any]:
    """The names of files, with a suffix."""
    return [case(f"{stem}{suffix}", spec.memories) for stem, spec in parsed().items()]


def by_layer(case: Case = case) -> list[Any]:
    """A file and a layer in it."""
    return [
        case((stem, name), [use.memory for use in uses(layer.body)])
        for stem, spec in parsed().items()
        for name, layer in spec.layers.items()
    ]
