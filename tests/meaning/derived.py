"""Derived programs in the float64 interpreter: rules token by token, and their chunk forms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from miras_dsl.check import read
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.model.inputs import POSITION, VALID
from miras_dsl.codegen.model.types import POSITIONS
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.pipeline import CompiledMemory, compile_memory
from miras_dsl.ir import Axis, I, Input, J, L, M, Node, Program, inputs_of
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.source import Source
from miras_dsl.spec import MemorySpec
from tests.shipped_specs import FAMILIES, case, is_alone

SPECS = Path(__file__).resolve().parents[2] / "specs"
BLOCK = 21
"""Tokens of a block in these tests, whatever the rule says: no chunk of 1, 3 or 7 straddles one."""
SIZES = {"d": 4, "dk": 4, "dv": 3, "n": 2}
Arrays = dict[str, Array]


@cache
def shipped() -> dict[str, MemorySpec]:
    """Every memory of `specs/` by name."""
    found: dict[str, MemorySpec] = {}
    for path in sorted(SPECS.glob("*.mem")):
        found |= read(Source(path.name, path.read_text(encoding="utf-8"))).memories
    return found


@cache
def compiled(name: str) -> CompiledMemory:
    """A shipped memory through all stages."""
    return compile_memory(shipped()[name])


def shipped_names(having: str = "", family_is_not: str = "") -> list[Any]:
    """The shipped memories as cases of a test; see `tests.shipped_specs`.  Nothing is compiled for it.

    having  only those that have this: a chunk `form`, or a `kernel_plan`
    """
    found = [name for name, family in sorted(FAMILIES.items()) if family != family_is_not]
    if having == "form":
        found = [name for name in found if FAMILIES[name] != "token by token"]
    if having == "kernel_plan":
        found = [name for name in found if is_alone(name)]
    return [case(name, [name]) for name in found]


def of_text(text: str) -> CompiledMemory:
    """The one memory of a text, through all stages."""
    (spec,) = read(Source("test.mem", text)).memories.values()
    return compile_memory(spec)


def extents(rule: UpdateRule) -> dict[Axis, int]:
    """The size of every axis of a rule."""
    model = rule.model
    given = {name: SIZES.get(name, default or 4) for name, default in model.params}
    return {
        axis: int(str(size.xreplace({s: sp.Integer(given[str(s)]) for s in size.free_symbols})))
        for axis, size in model.sizes
    }


def values_of(rule: UpdateRule, length: int, seed: int = 0) -> Arrays:
    """Arrays for every feed [T, …], state and constant: decays below 1, other gates small."""
    rng, sizes = np.random.default_rng(seed), extents(rule)
    decays = {gate.name for gate in rule.model.decay_gates}
    values: Arrays = {VALID.name: np.ones(length), POSITION.name: 1.0 + np.arange(length) % BLOCK}
    for feed in rule.inputs:
        shape = [sizes[axis] for axis in feed.axes if axis != POSITIONS]
        match feed.kind:
            case "token":
                x = rng.standard_normal((length, *shape))
                values[feed.name] = 0.9 * x / np.linalg.norm(x, axis=-1, keepdims=True)
            case "constant":
                values[feed.name] = 1 + 0.2 * rng.standard_normal(shape)
            case _ if feed.of in decays:
                gate = rng.uniform(0.6, 1.0, (length, *shape))
                values[feed.name] = np.log(gate) if feed.log else gate
            case _:
                gate = rng.uniform(0.1, 0.4, (length, *shape))
                values[feed.name] = np.log(gate) if feed.log else gate
    if (window := rule.model.window) is not None:
        for age in range(1, window.width):
            values[f"written_past{age}"] = np.ones(length) * (np.arange(length) >= age)
            for name in window.inputs:
                values[f"{name}_past{age}"] = np.roll(values[name], age, axis=0)
    for state in rule.states:
        values[state.name] = 0.4 * rng.standard_normal([sizes[axis] for axis in state.axes])
    return values


def environment(
    inputs: Mapping[str, Input], values: Arrays, states: Arrays, here: int | slice
) -> dict[Input, Array]:
    """Values of the inputs: tokens at ``here``, states as they are now."""
    known = values | states
    return {x: known[n][here] if x.per_token else known[n] for n, x in inputs.items()}


def at_block_edge(
    rule: UpdateRule, changes: tuple[tuple[str, Node], ...], values: Arrays, states: Arrays, at: int
) -> Arrays:
    """The states after the change at the start or the end of a block, with the inputs of token ``at``."""
    nodes = [node for _, node in changes]
    env = environment({x.name: x for x in inputs_of(nodes)}, values, states, at)
    made = evaluate(nodes, env, extents(rule))
    fresh = {
        name: np.broadcast_to(x, states[name].shape)
        for (name, _), x in zip(changes, made, strict=True)
    }
    return states | fresh


def run_rule(
    rule: UpdateRule, program: Program, values: Arrays, chunk: int, block: int
) -> tuple[Array, Arrays, list[Arrays]]:
    """Run a program over [T, …]: outputs, final states, the states before each chunk.

    chunk  tokens that the program takes at once; 0 for a program of one token
    block  tokens of a block; 0: there are no blocks
    """
    states = {s.name: values[s.name] for s in rule.states}
    length, names = len(values[VALID.name]), [name for name, _ in program]
    inputs = {x.name: x for x in program.inputs}
    outputs, entries = [], []
    for start in range(0, length, chunk or 1):
        end = min(start + (chunk or 1), length)
        if block and start % block == 0:
            states = at_block_edge(rule, rule.block_start, values, states, start)
        entries.append(states)
        sizes = extents(rule) | dict.fromkeys((I, J, L, M), end - start)
        env = environment(inputs, values, states, slice(start, end) if chunk else start)
        made = dict(zip(names, evaluate([n for _, n in program], env, sizes), strict=True))
        outputs.append(made["y"] if chunk else made["y"][None])
        states = {
            x.name: np.broadcast_to(made[n], states[x.name].shape) for x, n in program.carried
        }
        if block and end % block == 0:
            states = at_block_edge(rule, rule.block_end, values, states, end - 1)
    return np.concatenate(outputs), states, entries


def run_rule_adjoint(
    rule: UpdateRule,
    back: Program,
    values: Arrays,
    entries: list[Arrays],
    d_y: Array,
    d_states: Arrays,
    chunk: int,
) -> Arrays:
    """Run an adjoint from the last chunk to the first: gradients by the names of inputs."""
    length, names = len(d_y), [name for name, _ in back]
    every = values | {"d_y": d_y}
    states = {f"d_{name}": x for name, x in d_states.items()}
    inputs = {x.name: x for x in back.inputs}
    found = {n[2:]: np.zeros_like(values[n[2:]]) for n in names if n not in states}
    for number in reversed(range(len(entries))):
        here = slice(number * chunk, min((number + 1) * chunk, length))
        sizes = extents(rule) | dict.fromkeys((I, J, L, M), here.stop - here.start)
        env = environment(inputs, every, states | entries[number], here)
        made = dict(zip(names, evaluate([n for _, n in back], env, sizes), strict=True))
        states = {x.name: np.broadcast_to(made[n], states[x.name].shape) for x, n in back.carried}
        for name, total in found.items():
            total[here if inputs[name].per_token else ...] += made[f"d_{name}"]
    return found | {name[2:]: x for name, x in states.items()}


def assert_chunks(memory: CompiledMemory, chunk: int) -> None:
    """Chunks give what the rule gives over a whole block and a part of the next; the last chunk may be
    cut short."""
    assert memory.form is not None, memory.obstacle
    rule, program = memory.rule, memory.form.program
    values, block = values_of(rule, BLOCK + 4), BLOCK if rule.block else 0
    y, states, _ = run_rule(rule, rule.program, values, 0, block)
    found, after, _ = run_rule(rule, program, values, chunk, block)
    np.testing.assert_allclose(found, y, rtol=1e-12, atol=1e-12)
    assert np.abs(y).max() > 1e-2
    for state, x in states.items():
        np.testing.assert_allclose(after[state], x, rtol=1e-12, atol=1e-12, err_msg=state)


def assert_adjoint(memory: CompiledMemory) -> None:
    """Gradients equal differences along one random direction for each input; anchors count as states of
    their own here."""
    assert memory.form is not None, memory.obstacle
    rule, program, chunk = memory.rule, memory.form.program, 4
    values = values_of(rule, 10, seed=1)
    rng = np.random.default_rng(2)
    y, states, entries = run_rule(rule, program, values, chunk, 0)
    d_y = rng.standard_normal(y.shape)
    d_states = {n: rng.standard_normal(x.shape) for n, x in states.items()}

    def loss(changed: Arrays) -> float:
        y, states, _ = run_rule(rule, program, changed, chunk, 0)
        return float((y * d_y).sum() + sum((x * d_states[n]).sum() for n, x in states.items()))

    back = adjoint(program)
    found = run_rule_adjoint(rule, back, values, entries, d_y, d_states, chunk)
    assert set(found) == {x.name for x in program.inputs if x.role.differentiable}
    for x, gradient in found.items():
        along = rng.standard_normal(values[x].shape)
        step = 5e-6 / np.abs(along).max()
        at = [loss(values | {x: values[x] + n * step * along}) for n in (-2, -1, 1, 2)]
        slope = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)
        assert abs((gradient * along).sum() - slope) < 1e-6 * max(1.0, abs(slope)), x
        assert np.abs(gradient).max() > 1e-6, f"{x} is not tested"
