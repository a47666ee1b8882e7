"""The slots of the forward template: token after token with the state on chip."""

from __future__ import annotations

from miras_dsl.codegen.plan.kernel_plan import Edge, KernelPlan, Phase, Walk
from miras_dsl.ir import VALUE

from .frame import Frame, Variable, edges, shape


def forward(plan: KernelPlan, prefix: str) -> dict[str, object]:
    """What the template asks for."""
    frame = Frame(plan, Phase.FORWARD)
    (tokens,) = frame.kernel.body
    assert isinstance(tokens, Walk)
    frame.given()
    pointers: dict[str, dict[str, str]] = {x.name: {} for x in frame.states}
    for x in frame.states:
        pointers[x.name]["first"] = frame.pointer(
            x.name, shape("N, H", x.node.axes), "before the first token"
        )
    y = frame.pointer("y", "[T, H, V]", "out: the answers")
    for x in frame.states:
        said = f"out: {x.name} after the last token"
        pointers[x.name]["end"] = frame.pointer(f"{x.name}_end", shape("N, H", x.node.axes), said)
    for x in frame.states:
        said = f"out: {x.name} before each segment"
        pointers[x.name]["checkpoints"] = frame.pointer(
            f"{x.name}_checkpoints", shape("-, H", x.node.axes), said
        )
    answer = plan.results_of(Phase.FORWARD)["y"]
    return {
        **frame.slots(prefix),
        "tokens": frame.loads(tokens.body, frame.tokens),
        "constants": [Variable(x.name, x.node.axes, {}) for x in frame.constants],
        "states": [Variable(x.name, x.node.axes, pointers[x.name]) for x in frame.states],
        "position": frame.position(tokens.body),
        "block_start": frame.branch(edges(plan, tokens, Edge.START)),
        "step": frame.compute(tokens),
        "y_value": frame.printer.operand(answer.scope, answer.node)[0],
        "carry": frame.printer.carried(tokens.carry),
        "block_end": frame.branch(edges(plan, tokens, Edge.END)),
        "y": y,
        "y_axes": (VALUE,),
    }
