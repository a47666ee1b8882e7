"""Every hand-written program beside its token loop, with sizes and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from miras_dsl.ir import KEY, VALUE, Program, hidden, is_token_axis
from miras_dsl.ir.interpreter import Array
from tests.meaning import deep_forms as deep
from tests.meaning import forms
from tests.meaning import token_loops as loops


@dataclass(frozen=True)
class Case:
    """One program, the loop it must equal, T tokens in chunks, and the sizes of the axes."""

    name: str
    program: Program
    loop: loops.Loop
    length: int = 17
    chunk: int = 5
    sizes: tuple[int, int, int] = (3, 4, 5)
    """value, hidden, key"""


def _cases() -> list[Case]:
    made = [
        Case("hebbian", forms.hebbian(), loops.hebbian),
        Case("hebbian, channel gate", forms.hebbian_channel(), loops.hebbian),
        Case(
            "diagonal plus rank one", forms.diagonal_plus_rank_one(), loops.diagonal_plus_rank_one
        ),
        Case("row gates", forms.row_gates(), loops.row_gates),
        Case("window 2", forms.window(2, 5), loops.window(2), length=15),
        Case("window 4", forms.window(4, 5), loops.window(4), length=15),
        Case("window 5", forms.window(5, 5), loops.window(5), length=15),
        Case("soft threshold at chunk", forms.soft_threshold(), loops.soft_threshold),
        Case("softmax link", deep.softmax_link(), loops.softmax_link),
        Case("norm link", deep.norm_link(), loops.norm_link),
        Case("mlp, residual, layer norm", deep.mlp(), loops.mlp, sizes=(4, 6, 4)),
        Case("glu", deep.glu(), loops.glu),
        Case(
            "one token a chunk",
            forms.any_bias("logcosh", True),
            loops.any_bias("logcosh", True),
            chunk=1,
        ),
        Case("one chunk", forms.any_bias("l3", False), loops.any_bias("l3", False), chunk=40),
        Case(
            "no channels to speak of", forms.delta(True, True), loops.delta(True), sizes=(1, 1, 1)
        ),
    ]
    for first in (True, False):
        order = "decay first" if first else "predict first"
        for split in (True, False):
            form = "split" if split else "whole"
            made.append(
                Case(f"delta, {order}, {form}", forms.delta(first, split), loops.delta(first))
            )
        for bias in forms.BIASES:
            loop = loops.any_bias(bias, first)
            made.append(Case(f"{bias}, {order}", forms.any_bias(bias, first), loop))
        for bias in ("l3", "mixture"):
            made.append(
                Case(
                    f"{bias}, channel gate, {order}",
                    forms.any_bias_channel(bias, first),
                    loops.any_bias(bias, first),
                )
            )
    for bias in ("l2", "logcosh"):
        for anchored in (True, False):
            made.append(
                Case(
                    f"momentum, {bias}, {'anchored' if anchored else 'exact'}",
                    forms.momentum(bias, anchored),
                    loops.momentum(bias, anchored),
                )
            )
    for count in (1, 2, 3):
        form = deep.sweeps(count)
        made.append(Case(f"{count} sweeps", form, loops.sweeps(count), length=11, sizes=(4, 6, 4)))
    return made


CASES = _cases()


def values_of(case: Case, seed: int = 0) -> dict[str, Array]:
    """Arrays for every input: gates in their ranges, keys and queries of length 1."""
    rng = np.random.default_rng(seed)
    sizes = dict(zip((VALUE, hidden("hidden"), KEY), case.sizes, strict=True))
    values: dict[str, Array] = {}
    for x in case.program.inputs:
        shape = [
            (case.length if x.per_token else case.chunk) if is_token_axis(axis) else sizes[axis]
            for axis in x.axes
        ]
        values[x.name] = _draw(x.name, rng, shape)
    return values


def _draw(name: str, rng: np.random.Generator, shape: list[int]) -> Array:
    match name:
        case "alpha" | "mu" | "w":
            return rng.uniform(0.6, 1.0, shape)
        case "eta" | "ep":
            return rng.uniform(0.1, 0.4, shape)
        case "delta":
            return rng.uniform(0.3, 1.2, shape)
        case "gamma":
            return rng.uniform(0.05, 0.1, shape)
        case "gain":
            return 1 + 0.2 * rng.standard_normal(shape)
        case "q" | "k" | "kp" | "x" | "z":
            raw = rng.standard_normal(shape)
            return (
                (0.8 if name in "xz" else 1.0) * raw / np.linalg.norm(raw, axis=-1, keepdims=True)
            )
        case "v" | "vp":
            return 0.7 * rng.standard_normal(shape)
        case _:
            return 0.3 * rng.standard_normal(shape)
