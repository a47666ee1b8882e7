"""Faults of the derivation: of rules, chunk programs, rules of reverse mode, reverse programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from miras_dsl.codegen import pipeline
from miras_dsl.codegen.derive import update
from miras_dsl.codegen.derive.transitions import Transitions
from miras_dsl.codegen.model.types import StateKind
from miras_dsl.ir import (
    ONE,
    Cumsum,
    Decay,
    ForwardSubstitution,
    GatedApply,
    GatedContract,
    I,
    Input,
    Inverse,
    J,
    Mask,
    Node,
    Program,
    Shift,
    broadcast,
    rename,
)
from tests.judge.faults import Patch, fault, in_program, nodes


def retriangled(node: Any, strict: bool) -> Any:
    """An operation on a triangle with or without its diagonal."""
    return replace(node, triangle=replace(node.triangle, strict=strict))


# ------------------------------------------------------------ the chunk program


@fault("sum", "the answer does not see its own token: the triangle is strict")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Decay, lambda n: retriangled(n, True)))


@fault("plain sum", "the mask is strict where it should hold the diagonal")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Mask, lambda n: retriangled(n, not n.triangle.strict)))


@fault("channels", "the triangle of decays per channel is strict")
def _(patch: Patch) -> None:
    in_program(patch, nodes(GatedContract, lambda n: retriangled(n, not n.triangle.strict)))


@fault("sum", "the decay runs backwards: e^(b - a)")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Decay, lambda n: replace(n, a=-n.a, b=-n.b)))


@fault("sum", "the gate is shifted by one token")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Cumsum, lambda n: Shift(n, I, 1)))


@fault("delta", "logarithms are summed from the end")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Cumsum, lambda n: replace(n, reverse=True)))


@fault("delta", "the inverse is transposed")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Inverse, lambda n: rename(n, {I: J, J: I})))


@fault("delta", "the inverse has the wrong sign: (1 - A)^-1")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Inverse, lambda n: replace(n, x=-n.x)))


@fault("delta", "the prediction decays as if the token came first")
def _(patch: Patch) -> None:
    in_program(
        patch, nodes(Decay, lambda n: replace(n, a=Shift(n.a, I, 1)) if n.triangle.strict else n)
    )


@fault("momentum", "earlier rows enter a substitution with the wrong sign")
def _(patch: Patch) -> None:
    in_program(patch, nodes(ForwardSubstitution, lambda n: replace(n, a=-n.a)))


@fault("rows", "the gates of a substitution are swapped")
def _(patch: Patch) -> None:
    def swapped(n: ForwardSubstitution) -> Node:
        assert n.gates is not None
        return replace(n, gates=(n.gates[1], n.gates[0]))

    in_program(patch, nodes(ForwardSubstitution, swapped))


@fault("rows", "the channel gates of an answer are strict")
def _(patch: Patch) -> None:
    in_program(patch, nodes(GatedApply, lambda n: retriangled(n, True)))


@fault("delta", "the state is not carried to the next chunk")
def _(patch: Patch) -> None:
    def stuck(program: Program) -> Program:
        states = {name: state for state, name in program.carried}
        kept = tuple((name, states.get(name, node)) for name, node in program.results)
        return replace(program, results=kept)

    in_program(patch, stuck)


@fault("delta", "the first state does not decay on its way through a chunk")
def _(patch: Patch) -> None:
    made = Transitions.initial_at_end
    patch.setattr(
        Transitions, "initial_at_end", lambda self, state: ((s, ONE) for s, _ in made(self, state))
    )


@fault("sum", "a write does not decay until the end of its chunk")
def _(patch: Patch) -> None:
    def plain(self: Transitions, state: Input) -> Iterator[Any]:
        for write in self.updates[state].writes:
            yield (write.u, write.x), broadcast(self.vectorize(write.scale), (I,)), ONE, ONE

    patch.setattr(Transitions, "writes_at_end", plain)


@fault("late decay", "the order of decay and prediction is swapped")
def _(patch: Patch) -> None:
    patch.setattr(Transitions, "_log_until", staticmethod(lambda log, moment: Cumsum(log, I)))


@fault("momentum", "the momentum decays twice")
def _(patch: Patch) -> None:
    made = Transitions.logs

    def twice(self: Transitions, state: Input) -> dict[str | None, Node]:
        logs = made(self, state)
        return {a: x * 2.0 for a, x in logs.items()} if state.name.startswith("S.") else logs

    patch.setattr(Transitions, "logs", twice)


@fault("momentum", "half of the momentum does not reach the weight")
def _(patch: Patch) -> None:
    made = Transitions._coupled_transitions

    def halved(self: Transitions, state: Input) -> Any:
        firsts, dense = made(self, state)
        return {first: x * 0.5 for first, x in firsts.items()}, dense

    patch.setattr(Transitions, "_coupled_transitions", halved)


@fault("momentum", "a prediction sees the weight after its own token")
def _(patch: Patch) -> None:
    in_program(patch, nodes(Shift, lambda n: n.x))


# ------------------------------------------------------------ stages 3 and 4


@fault("delta", "the half of the squared error is dropped")
def _(patch: Patch) -> None:
    made = pipeline.build_model

    def doubled(spec: Any) -> Any:
        model = made(spec)
        return replace(model, gradients=tuple((w, g * 2.0) for w, g in model.gradients))

    patch.setattr(pipeline, "build_model", doubled)


@fault("delta", "the answer is read before the write")
def _(patch: Patch) -> None:
    made = pipeline.build_model
    order = ("decay", "predict", "read", "write")
    patch.setattr(pipeline, "build_model", lambda spec: replace(made(spec), order=order))


@fault("delta", "the step goes up the gradient")
def _(patch: Patch) -> None:
    made = pipeline.build_model

    def uphill(spec: Any) -> Any:
        model = made(spec)
        return replace(model, gradients=tuple((w, -g) for w, g in model.gradients))

    patch.setattr(pipeline, "build_model", uphill)


@fault("sweeps", "the second trajectory learns at the anchor, not from the first")
def _(patch: Patch) -> None:
    made, first = update.run_token, []

    def at_anchor(model: Any, course: Any, anchors: Any, *rest: Any) -> Any:
        first.append(anchors)
        return made(model, course, first[0], *rest)

    patch.setattr(update, "run_token", at_anchor)


@fault("link", "the link is skipped when a block begins")
def _(patch: Patch) -> None:
    made = pipeline.update_rule

    def bare(model: Any) -> Any:
        rule = made(model)
        states = {state.name: state for state in rule.states}
        weight = {tensor.name: tensor.of for tensor in rule.state_tensors}
        duals = {w.of: states[w.name] for w in rule.state_tensors if w.kind is StateKind.DUAL}
        unlinked = tuple((name, duals[weight[name]]) for name, _ in rule.block_start)
        return replace(rule, block_start=unlinked)

    patch.setattr(pipeline, "update_rule", bare)


@fault("link", "the dual is not moved by the writes")
def _(patch: Patch) -> None:
    def still(program: Program) -> Program:
        states = {name: s for s, name in program.carried if name.endswith(".dual")}
        kept = tuple((name, states.get(name, node)) for name, node in program.results)
        return replace(program, results=kept)

    in_program(patch, still)
