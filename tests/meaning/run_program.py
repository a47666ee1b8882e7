"""Programs run chunk after chunk in the interpreter, forwards and backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from miras_dsl.ir import I, Input, J, L, M, Program, Role
from miras_dsl.ir.interpreter import EXACT, Array, Rounding, evaluate

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class ProgramRun:
    """results: outputs [T, …] and final states by name; entries: the states before each chunk."""

    results: dict[str, Array]
    entries: list[dict[str, Array]]


def axis_sizes(program: Program, values: Arrays, rows: int) -> dict[str, int]:
    """Sizes of all axes, read off the arrays; token axes have `rows`."""
    sizes = {
        axis: size
        for x in program.inputs
        if x.name in values
        for axis, size in zip(x.axes, values[x.name].shape, strict=True)
    }
    return sizes | dict.fromkeys((I, J, L, M), rows)


def run_program(
    program: Program, values: Arrays, chunk: int, rounding: Rounding = EXACT
) -> ProgramRun:
    """Run a program over tokens [T, …]; the last chunk may be shorter."""
    states = {x.name: values[x.name] for x, _ in program.carried}
    names = [name for name, _ in program]
    length = len(values["q"])
    rows: dict[str, list[Array]] = {n: [] for n in names if n not in states}
    entries = []
    for start in range(0, length, chunk):
        entries.append(states)
        here = slice(start, min(start + chunk, length))
        env = {
            x: values[x.name][here] if x.per_token else states.get(x.name, values[x.name])
            for x in program.inputs
        }
        sizes = axis_sizes(program, values, here.stop - here.start)
        found = dict(
            zip(names, evaluate([n for _, n in program], env, sizes, rounding), strict=True)
        )
        states = {x.name: found[name] for x, name in program.carried}
        for name in rows:
            rows[name].append(found[name])
    return ProgramRun({**{n: np.concatenate(r) for n, r in rows.items()}, **states}, entries)


def run_adjoint(
    back: Program, values: Arrays, entries: list[dict[str, Array]], d: Arrays, chunk: int
) -> dict[str, Array]:
    """Run the adjoint of a program from the last chunk to the first.

    d  cotangents of the outputs [T, …] and of the final states, by name
    Returns gradients by the inputs' names, with their shapes.
    """
    assert back.reverse
    cotangents = {f"d_{name}": x for name, x in d.items()}
    every = {**values, **cotangents}
    states = {x.name: cotangents[x.name] for x, _ in back.carried}
    names = [name for name, _ in back]
    inputs = {x.name: x for x in back.inputs}
    gradients = {n[2:]: np.zeros_like(values[n[2:]]) for n in names if n not in states}
    for number in reversed(range(len(entries))):
        here = slice(number * chunk, min((number + 1) * chunk, len(values["q"])))
        env: dict[Input, Array] = {}
        for x in back.inputs:
            if x.per_token:
                env[x] = every[x.name][here]
            elif x.name in states:
                env[x] = states[x.name]
            elif x.role is Role.STATE:
                env[x] = entries[number][x.name]
            else:
                env[x] = every[x.name]
        sizes = axis_sizes(back, every, here.stop - here.start)
        found = dict(zip(names, evaluate([n for _, n in back], env, sizes), strict=True))
        states = {x.name: np.broadcast_to(found[n], states[x.name].shape) for x, n in back.carried}
        for name, total in gradients.items():
            total[here if inputs[name].per_token else ...] += found[f"d_{name}"]
    return gradients | {name[2:]: x for name, x in states.items()}
