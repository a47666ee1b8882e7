"""The slots of the backward template: the states of a segment, then its tokens in reverse."""

from __future__ import annotations

from miras_dsl.codegen.plan.kernel_plan import AtBlock, Edge, KernelPlan, Phase, Value, Walk
from miras_dsl.ir import VALUE, is_zero

from .frame import Frame, Variable, edges, input_of, inputs_read, shape, shared, states_at_edge
from .printer import zeros

EdgeShares = dict[str, list[str]]
"""Result -> the variables with what the edges of a block add to it."""


def backward(plan: KernelPlan, prefix: str) -> dict[str, object]:
    """What the template asks for."""
    frame = Frame(plan, Phase.BACKWARD)
    (segments,) = frame.kernel.body
    assert isinstance(segments, Walk)
    replay, adjoint = segments.body
    assert isinstance(replay, Walk) and isinstance(adjoint, Walk)
    replay_lines = {
        "replay_start": frame.branch(edges(plan, replay, Edge.START)),
        "replay": frame.compute(replay),
        "replay_carry": frame.printer.carried(replay.carry),
        "replay_end": frame.branch(edges(plan, replay, Edge.END)),
    }
    shares: EdgeShares = {}
    restored = states_at_edge(plan, adjoint, Edge.START)
    block_start = frame.branch(restored)
    end_zeros, end_adjoint = _edge_adjoint(frame, adjoint, Edge.END, shares)
    step = frame.compute(adjoint)
    carry = frame.printer.carried(adjoint.carry)
    start_zeros, start_adjoint = _edge_adjoint(frame, adjoint, Edge.START, shares)
    states, tokens, constants = _variables(frame, adjoint, shares)
    start_bodies = [part.body for part in edges(plan, adjoint, Edge.START)]
    start_reads = {x for body in start_bodies for x in inputs_read(plan, body)}
    read = {x.name for x in frame.loads(adjoint.body, frame.states)}
    return {
        **frame.slots(prefix),
        **replay_lines,
        "replay_tokens": frame.loads(replay.body, frame.tokens),
        "replay_position": frame.position(replay.body),
        "adjoint_tokens": frame.loads(adjoint.body, frame.tokens),
        "adjoint_states": [x for x in states if restored or x.name in read],
        "adjoint_position": frame.position(adjoint.body),
        "tokens": tokens,
        "constants": constants,
        "states": states,
        "block_start": block_start,
        "block_end_zeros": end_zeros,
        "block_end_adjoint": end_adjoint,
        "step_adjoint": step,
        "carry": carry,
        "block_start_zeros": start_zeros,
        "block_start_states": [
            v for v, x in zip(states, frame.states, strict=True) if x.node in start_reads
        ],
        "block_start_adjoint": start_adjoint,
        "y_axes": (VALUE,),
    }


def _edge_adjoint(
    frame: Frame, walk: Walk, where: Edge, shares: EdgeShares
) -> tuple[list[str], list[str]]:
    """The adjoint of what happens at the edge of a block: lines before the branch, and in it.

    What it adds to a gradient is a variable of its own, which is 0 elsewhere.
    """
    before: list[str] = []
    lines: list[str] = []
    for part in edges(frame.plan, walk, where):
        extra = []
        for id in part.results:
            value = frame.plan.values[id]
            name = value.name
            if id not in _computed_in(part):
                name = frame.printer.fresh(f"{name}_at_{where.value}")
                extra.append(f"{name} = {value.name}")
            before.append(f"{name} = {zeros(value.node.axes)}")
            shares.setdefault(_result_of(frame.plan, id), []).append(name)
        lines += frame.at_block(part, extra)
    return before, lines


def _computed_in(part: AtBlock) -> set[int]:
    return {id for inner in part.body for id in getattr(inner, "values", ())}


def _result_of(plan: KernelPlan, id: int) -> str:
    """The result of the backward pass that a value is a part of."""
    return next(name for _, name, part in plan.results if part == id)


def _variables(
    frame: Frame, adjoint: Walk, shares: EdgeShares
) -> tuple[list[Variable], list[Variable], list[Variable]]:
    """States, tokens and constants, with the kernel's parameters in their order."""
    plan = frame.plan
    cotangents = [plan.values[c.state] for c in adjoint.carry]
    frame.given()
    frame.pointer("d_y", "[T, H, V]", "cotangent of the answers")
    pointers: dict[str, dict[str, str]] = {x.name: {} for x in frame.states}
    for x in frame.states:
        pointers[x.name]["checkpoints"] = frame.pointer(
            f"{x.name}_checkpoints", shape("-, H", x.node.axes), f"{x.name} before each segment"
        )
    for x in frame.states:
        rows = "NV * N * H" if frame.split and VALUE not in x.node.axes else "N * H"
        pointers[x.name]["replayed"] = frame.pointer(
            f"{x.name}_replayed", shape(f"{rows}, SEGMENT", x.node.axes), "scratch"
        )
    for x, d in zip(frame.states, cotangents, strict=True):
        pointers[x.name]["d_end"] = frame.pointer(
            f"{d.name}_end", shape("N, H", x.node.axes), "cotangent of the last state"
        )
    tokens = [_gradient(frame, x, "T, H", "row", shares) for x in frame.tokens]
    constants = [_gradient(frame, x, "N, H", "i_nh", shares) for x in frame.constants]
    states = []
    for x, d in zip(frame.states, cotangents, strict=True):
        each = shared(plan, d.id, x.node.axes)
        pointers[x.name]["d"] = _out(frame, d.name, "N, H", x, each)
        states.append(
            Variable(
                x.name,
                x.node.axes,
                pointers[x.name],
                row="share" if each else "i_nh",
                replayed="replayed_share" if each else "replayed",
                value=d.name,
                shared=each,
            )
        )
    return states, tokens, constants


def _gradient(frame: Frame, x: Value, lead: str, row: str, shares: EdgeShares) -> Variable:
    """A token or a constant with its gradient: what the step gives, and the edges of a block."""
    result = f"d_{input_of(x).name}"
    d = frame.plan.results_of(Phase.BACKWARD)[result]
    each = shared(frame.plan, d.id, x.node.axes)
    text, _ = frame.printer.operand(d.scope, d.node)
    parts = [*([] if is_zero(d.node) else [text]), *shares.get(result, ())] or [text]
    pointer = _out(frame, f"d_{x.name}", lead, x, each)
    return Variable(
        x.name,
        x.node.axes,
        {"d": pointer},
        row="share" if each else row,
        value=" + ".join(parts),
        total=frame.printer.fresh(f"d_{x.name}_total"),
        zeros=zeros(x.node.axes),
        shared=each,
    )


def _out(frame: Frame, word: str, lead: str, x: Value, each: bool) -> str:
    said = "out: a share from each block of values" if each else "out"
    return frame.pointer(word, shape(f"NV, {lead}" if each else lead, x.node.axes), said)
