"""Printed equations mean what the compiler computes: read back by the language's own parser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import pytest

from miras_dsl.codegen.equations.token_events import Event, TokenEvents
from miras_dsl.codegen.model.inputs import POSITION
from miras_dsl.codegen.model.types import POSITIONS, StateKind
from miras_dsl.codegen.pipeline import CompiledMemory
from miras_dsl.codegen.plan.line_names import named_lines, style_of
from miras_dsl.ir import KEY, VALUE, Input, Role, contract, hidden, rename
from miras_dsl.ir.interpreter import Array, evaluate
from miras_dsl.ir.notation.printer import Printer
from miras_dsl.ir.notation.style import TEXT
from tests.judge.random_specs.draw import sample_covering, text
from tests.meaning.derived import SIZES, compiled, extents, of_text, shipped_names, values_of
from tests.project.printed_formulas import Reader

MUON = """
memory M(d) {
  architecture { A: matrix[value, 2 * d]   B: matrix[2 * d, key]   M(x) = A @ tanh(B @ x) }
  bias l2   retention l2(alpha)
  algorithm { carry S   S = mu * S - grad   W = keep(W) + eta * orthogonal(S, steps = STEPS) }, anchored(8)
  order predict, decay, write, read
  gates { alpha, mu = sigmoid(linear(x))   eta = sigmoid(linear(x)) / 64 }
}"""
BEYOND = ("argmin(", "solution(", "softmax[", "repeated[", "ᵀ")
"""What only a person reads."""
KINDS = {"token": "token", "gate": "gate", "constant": "constant", "position": "gate"}

EARLIER = {Role.TOKEN: "token", Role.GATE: "gate", Role.PREDICATE: "gate"}
"""Of inputs of earlier tokens."""


def told(memory: CompiledMemory) -> TokenEvents:
    return TokenEvents(memory.model, style_of(memory.model, memory.state_tensors))


def reader_of(memory: CompiledMemory, values: Mapping[str, Array]) -> Reader:
    """A reader that knows the tokens, gates and constants, as they are printed."""
    model, style = memory.model, told(memory).style
    words = {name: SIZES.get(name, default or 4) for name, default in model.params}
    reader = Reader(extents(memory.rule), dict(model.sizes), words)
    logs = dict(style.logs)
    for given in sorted(model.inputs, key=lambda given: not given.log):
        if given.name in values:
            axes = tuple(axis for axis in given.axes if axis != POSITIONS)
            value = np.exp(values[given.name]) if given.log else values[given.name]
            name = logs.get(given.name) or style.name(given.name)
            reader.put(name, axes, value, KINDS[given.kind])
    for x in memory.rule.program.inputs:
        if x.name not in reader.kinds and x.role in EARLIER:
            reader.put(x.name, x.axes, values[x.name], EARLIER[x.role])
    reader.put("position", (), values[POSITION.name], "position")
    return reader


def run_events(
    memory: CompiledMemory, events: Sequence[Event], values: Mapping[str, Array]
) -> dict[str, Array]:
    """One token, line after line as it is printed: ``y``, and carried tensors by their names."""
    reader, names = reader_of(memory, values), told(memory)
    weights = [s for s in memory.state_tensors if s.kind is StateKind.WEIGHT]
    kept = {s.of: str(names.name_of(s)) for s in weights}
    learned_at: dict[str, Array] = {}
    now: dict[str, Array] = {}
    for state in memory.state_tensors:
        axes = next(w.axes for w in memory.module.weights if w.name == state.of)
        name = names.name_of(state)
        for word in (name, state.of, f"used_{state.of}"):
            if word is not None:
                reader.axes[word] = axes
        if name is not None:
            now[name] = values[state.name]
        if state.kind is StateKind.ANCHOR:
            learned_at.setdefault(kept[state.of], values[state.name])
        if state.kind is StateKind.TRAJECTORY:
            learned_at[kept[state.of]] = values[state.name]
    answer = None
    order = memory.model.order
    sweeps = memory.model.anchored is not None and memory.model.anchored.sweeps > 1
    before = order[: order.index("predict")] if "predict" in order else ()
    if sweeps and "decay" in before:
        # The sweep before has decayed too when it predicts.
        for name, value in learned_at.items():
            reader.put(name, reader.axes[name], value, "state")
        for name, formula in next(e for e in events if e.title.startswith("decay")).lines:
            if name in learned_at:
                learned_at[name] = reader.assign(name, formula)
    for event in events:
        word = event.title.partition(" ")[0].rstrip(",")
        if word == "at":
            continue  # the end of a block
        here = dict(now)
        if word == "predict":
            here |= learned_at
        if event.title.startswith("read, at the weights with which"):
            here |= {kept[w.name]: now[f"start_{w.name}"] for w in memory.model.weights}
        for name, value in here.items():
            reader.put(name, reader.axes[name], value, "newest")
        for name, formula in event.lines:
            made = reader.assign(name, formula)
            if name in now:
                now[name] = made
            answer = made if name == "y" else answer
    assert answer is not None
    return {**now, "y": answer}


def check_token(memory: CompiledMemory) -> bool:
    """Compares the printed token with the rule's own program: the answer and what is carried.

    Returns False where a line is not in the language.
    """
    rule, events, names = memory.rule, told(memory).events(), told(memory)
    formulas = [formula for event in events for _, formula in event.lines]
    if memory.model.implicit or any(mark in f for mark in BEYOND for f in formulas):
        return False
    drawn = values_of(rule, 1, seed=3)
    program, sizes = rule.program, extents(rule)
    timed = {x.name for x in program.inputs if x.per_token} | {POSITION.name}
    values = {name: value[0] if name in timed else value for name, value in drawn.items()}
    for x in program.inputs:  # those of earlier tokens, in a window
        values.setdefault(x.name, 0.3 + np.random.default_rng(4).random([sizes[a] for a in x.axes]))
    for given in memory.inputs:  # a gate and its logarithm are one gate
        if given.log and (plain := given.name.removeprefix("log_")) in values:
            values[plain] = np.exp(values[given.name])
    made = evaluate(
        [node for _, node in program.results],
        {x: values[x.name] for x in program.inputs},
        sizes,
    )
    expected = dict(zip((name for name, _ in program.results), made, strict=True))
    found = run_events(memory, events, values)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-8, atol=1e-11)
    for state in memory.state_tensors:
        if (name := names.name_of(state)) is not None:
            want = np.broadcast_to(expected[state.name], values[state.name].shape)
            np.testing.assert_allclose(found[name], want, rtol=1e-8, atol=1e-11, err_msg=name)
    return True


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_token_reads_back(name: str) -> None:
    """All but the rules whose step is solved, which print as `argmin(…)`."""
    model = compiled(name).model
    solved = model.implicit or any(f.penalty is not None for _, f in model.formulas)
    assert check_token(compiled(name)) == (not solved)


def test_a_weight_that_others_read_before_and_after_it_is_set_reads_back() -> None:
    assert check_token(
        of_text("""
memory Three(dk, dv) {
  architecture { C: matrix[value, key] = zero   a, b, c: vector[key]   M(z) = C @ (z * (a + c)) }
  bias         -dot(C @ key, value)
  retention    none
  algorithm    { a = keep(a) / 2 + keep(b)
                 b = keep(b) / 3 + a * key
                 c = keep(c) / 4 + keep(b) - b
                 C = keep(C) - grad }, exact
  order        predict, write, read
}
""")
    )


def test_tokens_of_random_memories_read_back() -> None:
    """Recipes that cover the design space; most of them are in the language to the last line."""
    coverage: Counter[tuple[str, str]] = Counter()
    recipes = list(sample_covering(Random(7), 10, coverage))
    read = 0
    for recipe in recipes:
        written = text(recipe)
        try:
            read += check_token(of_text(written))
        except Exception as reason:
            raise AssertionError(f"{reason}\n{written}") from reason
    assert read > len(recipes) // 2


@pytest.mark.parametrize("steps", [3, 5])
def test_the_orthogonal_factor_of_a_momentum_is_named(steps: int) -> None:
    """Written out, Newton-Schulz steps are a page; a shorter iteration begins like a longer one."""
    memory = of_text(MUON.replace("STEPS", str(steps)))
    written = next(e for e in told(memory).events() if e.title == "write")
    call = "orthogonal(S_A)" if steps == 5 else f"orthogonal(S_A, {steps})"
    assert ("A", f"A + eta * {call}") in written.lines
    assert check_token(memory)


def test_a_product_of_a_matrix_with_itself_has_a_transpose() -> None:
    """Where a function is not found, what stands there must not be a product that it is not."""
    x = Input("X", (VALUE, KEY), Role.STATE)
    text = Printer(TEXT).text(contract(x, rename(x, {VALUE: hidden("value~")}), (KEY,)))
    assert text == "X @ Xᵀ"


def test_a_formula_of_many_layers_stays_short() -> None:
    """What is repeated gets a line: written out, five nested norms would fill a disk."""
    layers = "layernorm(" * 5 + "W @ x" + ")" * 5
    text = f"""
memory M(d) {{
  architecture {{ W: matrix[value, key]  M(x) = {layers} }}
  bias l2   retention decay alpha   algorithm gd(eta), exact
  order predict, decay, write, read
  gates {{ alpha, eta = sigmoid(linear(x)) }}
}}"""
    memory = of_text(text)
    assert memory.form is not None
    lines = named_lines(memory.form.program, style_of(memory.model, memory.state_tensors))
    assert sum(len(formula) for _, _, formula in lines) < 10_000
    assert check_token(memory)
