"""Two programs that must have the same results, on random inputs in the float64 interpreter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.ir import Axis, I, Program
from miras_dsl.ir.interpreter import evaluate


def differences(
    before: Program, after: Program, sizes: Mapping[Axis, int], logs: Collection[str] = ()
) -> dict[str, float]:
    """The largest difference of each result, relative to its size, on random inputs; `valid` is 1
    unless ``after`` reads it.

    logs  names of inputs that are drawn negative: the logarithms of gates, over many tokens
    """
    rng = np.random.default_rng(0)
    env = {x: rng.uniform(0.1, 0.5, [sizes[a] for a in x.axes]) for x in before.inputs}
    env |= {x: -v for x, v in env.items() if x.name in logs}
    if VALID not in after.inputs:
        env[VALID] = np.ones(sizes[I])
    old, new = (evaluate([n for _, n in p], env, sizes) for p in (before, after))
    return {
        name: float(np.max(np.abs(x - y))) / max(1.0, float(np.max(np.abs(x))))
        for (name, _), x, y in zip(before, old, new, strict=True)
    }


def difference(
    before: Program, after: Program, sizes: Mapping[Axis, int], logs: Collection[str] = ()
) -> float:
    """The largest of all `differences`."""
    return float(np.max(list(differences(before, after, sizes, logs).values())))
