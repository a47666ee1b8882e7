"""A memory's computation as torch text: the chunk form, its reverse mode, and one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miras_dsl.codegen.derive.chunk import ChunkForm
from miras_dsl.codegen.derive.update import UpdateRule
from miras_dsl.codegen.emit.identifiers import source_ref
from miras_dsl.codegen.emit.line_wrap import prose
from miras_dsl.codegen.emit.line_wrap import wrap_names as wrapped_names
from miras_dsl.codegen.emit.render import render
from miras_dsl.codegen.model.inputs import VALID
from miras_dsl.codegen.model.types import MemoryInput
from miras_dsl.codegen.passes.autodiff import vjp
from miras_dsl.codegen.plan.factor_decays import decay_ranges, factor_decay_products
from miras_dsl.ir import Input, Node, Program, Role, axis_names, broadcast, inputs_of
from miras_dsl.ir.printer import program_lines

from .functions import Function, FunctionEmitter, emit_function
from .naming import identifier_of

TILE = 64
"""Tokens of a chunk where the meaning of the rule does not fix it."""


def emit_memory(
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
    logs = rule.model.logarithms
    chunk = rule.block * rule.micro or TILE
    if form is not None and reverse is not None:
        forward = FunctionEmitter(name, bodies, logs).walk(
            factor_decay_products(form.program, logs, chunk)
        )
        backward = FunctionEmitter(f"{name}_back", bodies, logs).walk(
            factor_decay_products(reverse, logs, chunk)
        )
        evidence = (*form.evidence, *map(str, decay_ranges(form.program, rule.feeds, chunk)))
    step = emit_function(f"{name}_token", "one token", rule.program.results, bodies, logs)
    turns = [
        _block_edge(f"{name}_refresh", "what a new block starts from", rule, rule.refresh, bodies),
        _block_edge(f"{name}_close", "what a block ends with", rule, rule.close, bodies),
    ]
    feeds = rule.feeds
    states = [(s.name, identifier_of(s.name), axis_names(s.axes)) for s in rule.states]
    return render(
        "torch/memory.py.j2",
        {
            "name": name,
            "title": rule.name,
            "place": source_ref(rule.model.spans.memory),
            "law": update_equations(rule),
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
            "feeds": [(f.name, f.kind, axis_names(f.axes), f.log) for f in feeds],
            "arguments": _arguments(feeds),
            "states": states,
            "chunk": chunk,
            "block": rule.block,
            "resets": bool(rule.model.reset),
            "micro": rule.micro,
            "once": once_per_token_inputs(rule),
            "decay_at": _step_of(rule, "decay"),
            "read_at": _step_of(rule, "read"),
            "valid": VALID.name,
            "window": rule.model.window.width if rule.model.window else 0,
            "tails": rule.model.window_inputs,
            "answer": axis_names(rule.program.result("y").axes),
        },
    )


def update_equations(rule: UpdateRule) -> list[str]:
    """The rule for one token, line by line."""
    found = [
        f"{name} = {text}"
        for _, name, text in program_lines(rule.program)
        if f"{name}" != f"{text}'"
    ]
    return [piece for line in found for piece in prose(line)]


def _arguments(feeds: Sequence[MemoryInput]) -> list[str]:
    return [f.name for f in feeds]


def _step_of(rule: UpdateRule, event: str) -> int:
    """Of a token's several steps, the one with an event that happens once: before a write, the first."""
    order = rule.model.order
    early = event in order and order.index(event) < order.index("write")
    return 0 if early else rule.micro - 1


def once_per_token_inputs(rule: UpdateRule) -> tuple[str, ...]:
    """Feeds of the decay, which acts on one of a token's steps only."""
    decay = rule.model.decay_gate
    if rule.micro == 1 or decay is None:
        return ()
    return tuple(f.name for f in rule.feeds if f.of == decay.name and f.log != decay.signed)


@dataclass(frozen=True, slots=True)
class BlockEdgeFunctions:
    """A change of states at the edge of a block, and its adjoint."""

    forward: Function
    backward: Function
    gives: tuple[str, ...]
    takes_back: tuple[str, ...]


def _block_edge(
    name: str,
    doc: str,
    rule: UpdateRule,
    changes: Sequence[tuple[str, Node]],
    bodies: list[Function],
) -> BlockEdgeFunctions | None:
    if not changes:
        return None
    logs = rule.model.logarithms
    forward = emit_function(name, doc, changes, bodies, logs)
    results = _block_edge_adjoint(rule, changes)
    backward = emit_function(f"{name}_back", f"cotangents of {doc}", results, bodies, logs)
    return BlockEdgeFunctions(
        forward, backward, tuple(state for state, _ in changes), tuple(r for r, _ in results)
    )


def _block_edge_adjoint(
    rule: UpdateRule, changes: Sequence[tuple[str, Node]]
) -> list[tuple[str, Node]]:
    """Cotangents of the states (and gates) before a change of states, given those after it."""
    changed = {name for name, _ in changes}
    axes = {state.name: state.axes for state in rule.states}
    cotangents: dict[Node, Node] = {}
    for name, node in changes:
        given = Input(f"d_{name}", axes[name], Role.COTANGENT)
        cotangents[node] = cotangents[node] + given if node in cotangents else given
    gates = [
        x
        for x in inputs_of(node for _, node in changes)
        if x.role.per_token and x.role.differentiable
    ]
    found = vjp(cotangents, [*rule.states, *gates])
    results = []
    for state in rule.states:
        share = found[state]
        if state.name not in changed:
            share = share + Input(f"d_{state.name}", state.axes, Role.COTANGENT)
        results.append((f"d_{state.name}", broadcast(share, state.axes)))
    return results + [(f"d_{gate.name}", broadcast(found[gate], gate.axes)) for gate in gates]
