"""A memory's computation as torch text: the chunk form, its reverse mode, and one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miras_dsl.codegen.derive.chunk import UNTRAINED, VALID, ChunkForm
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.emit.identifiers import cite
from miras_dsl.codegen.emit.line_wrap import names as wrapped_names
from miras_dsl.codegen.emit.line_wrap import prose
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.model.build import signed_gates, tails_of
from miras_dsl.codegen.model.types import Feed
from miras_dsl.codegen.passes.autodiff import pull_back
from miras_dsl.codegen.plan.factor_decays import factored, logarithms_of, spans
from miras_dsl.ir import Input, Node, Program, inputs_of, spread
from miras_dsl.ir.printer import lines
from miras_dsl.spec import Ref

from .functions import Function, Section, straight
from .naming import plain

TILE = 64
"""Tokens of a chunk where the meaning of the rule does not fix it."""


def memory_text(
    rule: UpdateRule, form: ChunkForm | None, reverse: Program | None, name: str, kernels: str = ""
) -> str:
    """The functions `m_memory` and `m_step` of a memory, and all that they call.

    reverse  the adjoint of the chunk form
    name     what they begin with
    kernels  the name of the table of its Triton kernels in the same file, if there is one
    """
    bodies: list[Function] = []
    forward = backward = None
    evidence = (rule.obstacle,)
    chunk = rule.block * rule.micro or TILE
    if form is not None and reverse is not None:
        spec = rule.model.spec
        known = logarithms_of(spec, rule.feeds)
        forward = Section(name, bodies).walk(factored(form.program, known, chunk))
        backward = Section(f"{name}_back", bodies).walk(factored(reverse, known, chunk))
        evidence = (*form.evidence, *map(str, spans(form.program, spec, rule.feeds, chunk)))
    step = straight(f"{name}_token", "one token", rule.program.results, bodies)
    turns = [
        _turn(f"{name}_refresh", "what a new block starts from", rule, rule.refresh, bodies),
        _turn(f"{name}_close", "what a block ends with", rule, rule.close, bodies),
    ]
    feeds = rule.feeds
    states = [(s.name, plain(s.name), tuple(s.axes)) for s in rule.states]
    return render(
        "torch/memory.py.j2",
        {
            "name": name,
            "title": rule.name,
            "place": cite(rule.model.spec.span),
            "law": law_of(rule),
            "kernels": kernels,
            "wrap": wrapped_names,
            "constant": f"_{name}",
            "family": form.family if form else "token by token",
            "evidence": evidence,
            "bodies": bodies,
            "forward": forward,
            "backward": backward,
            "step": step,
            "turns": turns,
            "feeds": [(f.name, f.kind, tuple(f.axes), f.log) for f in feeds],
            "arguments": _arguments(feeds),
            "states": states,
            "chunk": chunk,
            "block": rule.block,
            "resets": bool(rule.model.algorithm.reset),
            "micro": rule.micro,
            "once": _once(rule),
            "decay_at": _step_of(rule, "decay"),
            "read_at": _step_of(rule, "read"),
            "valid": VALID.name,
            "window": rule.model.algorithm.window[0] if rule.model.algorithm.window else 0,
            "tails": tails_of(rule.model.spec),
            "answer": rule.program.result("y").axes,
        },
    )


def law_of(rule: UpdateRule) -> list[str]:
    """The rule for one token, line by line."""
    found = [f"{name} = {text}" for _, name, text in lines(rule.program) if f"{name}" != f"{text}'"]
    return [piece for line in found for piece in prose(line)]


def _arguments(feeds: Sequence[Feed]) -> list[str]:
    return [f.name for f in feeds]


def _step_of(rule: UpdateRule, event: str) -> int:
    """Of a token's several steps, the one with an event that happens once: before a write, the first."""
    order = rule.model.order
    early = event in order and order.index(event) < order.index("write")
    return 0 if early else rule.micro - 1


def _once(rule: UpdateRule) -> tuple[str, ...]:
    """Feeds of the decay, which acts on one of a token's steps only."""
    decay = rule.model.retention.decay
    if rule.micro == 1 or not isinstance(decay, Ref):
        return ()
    signed = decay.name in signed_gates(rule.model.spec)
    return tuple(f.name for f in rule.feeds if f.of == decay.name and f.log != signed)


@dataclass(frozen=True, slots=True)
class Turn:
    """A change of states at the edge of a block, and its adjoint."""

    forward: Function
    backward: Function
    gives: tuple[str, ...]
    takes_back: tuple[str, ...]


def _turn(
    name: str,
    doc: str,
    rule: UpdateRule,
    changes: Sequence[tuple[str, Node]],
    bodies: list[Function],
) -> Turn | None:
    if not changes:
        return None
    forward = straight(name, doc, changes, bodies)
    results = _turn_adjoint(rule, changes)
    backward = straight(f"{name}_back", f"cotangents of {doc}", results, bodies)
    return Turn(
        forward, backward, tuple(state for state, _ in changes), tuple(r for r, _ in results)
    )


def _turn_adjoint(rule: UpdateRule, changes: Sequence[tuple[str, Node]]) -> list[tuple[str, Node]]:
    """Cotangents of the states (and gates) before a change of states, given those after it."""
    changed = {name for name, _ in changes}
    axes = {state.name: state.axes for state in rule.states}
    cotangents: dict[Node, Node] = {}
    for name, node in changes:
        given = Input(f"d_{name}", axes[name], "cotangent")
        cotangents[node] = cotangents[node] + given if node in cotangents else given
    gates = [
        x
        for x in inputs_of(node for _, node in changes)
        if x.kind == "token" and x.name not in UNTRAINED
    ]
    found = pull_back(cotangents, [*rule.states, *gates])
    results = []
    for state in rule.states:
        share = found[state]
        if state.name not in changed:
            share = share + Input(f"d_{state.name}", state.axes, "cotangent")
        results.append((f"d_{state.name}", spread(share, state.axes)))
    return results + [(f"d_{gate.name}", spread(found[gate], gate.axes)) for gate in gates]
