"""The library network `mlp`: linear layers with an activation between them, and flags."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from miras_dsl.check.formula.axis_sizes import AxisSizes, size_of
from miras_dsl.check.formula.elaborate import Scope, integer_literal
from miras_dsl.check.formula.shapes import broadcast_operands, contract
from miras_dsl.diagnostics import problem
from miras_dsl.source import Span
from miras_dsl.spec import POINTWISE, Apply, Axes, Expr, Network, Ref, State
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

from .weights import Architecture, init_of

MLP: dict[str, Callable[[Scope, syntax.Formula], object]] = {
    "hidden": lambda scope, node: size_of(node, scope),
    "activation": lambda _, node: _activation(node),
    "depth": lambda scope, node: integer_literal(node, scope, "the depth", 1, 16),
    "init": lambda _, node: init_of(node),
}
"""Named argument of `mlp` -> how it is read."""
FLAGS = ("residual", "layernorm", "bias")


def mlp(call: syntax.Call, scope: Scope, sizes: AxisSizes) -> Architecture:
    """A network of linear layers W1 (next to the input), W2 …, with an activation between them.

    Raises Problem.
    """
    if sizes.vector:
        raise problem("M0301", "an mlp needs keys and values", call.span, "not a vector memory")
    given: dict[str, object] = {"activation": "gelu", "depth": 2, "init": "learned"}
    flags: set[str] = set()
    for place, argument in enumerate(call.arguments):
        value = argument.value
        if argument.name is None and isinstance(value, syntax.Name) and value.name in FLAGS:
            flags.add(value.name)
        elif argument.name in MLP or (argument.name is None and place == 0):
            given[argument.name or "hidden"] = MLP[argument.name or "hidden"](scope, value)
        else:
            word = argument.name or argument.span.text
            help = did_you_mean(word, (*MLP, *FLAGS))
            if argument.name in FLAGS:
                help = f"a flag stands alone: write `{word}`, or leave it out"
            raise problem(
                "M0206", f"`mlp` has no argument `{word}`", argument.span, "unknown", help=help
            )
    depth, init, act = int(str(given["depth"])), str(given["init"]), str(given["activation"])
    if depth > 1 and "hidden" not in given:
        raise problem(
            "M0205",
            "`mlp` needs `hidden`",
            call.span,
            "no hidden size",
            help="write `mlp(hidden = 4 * d)`",
        )
    built, span = Architecture(), call.span
    axes = ["key", *(sizes.layer(given["hidden"]) for _ in range(depth - 1)), "value"]
    source = Ref("input", "input", ("key",), span)
    x: Expr = source
    for layer, (low, high) in enumerate(pairwise(axes), start=1):
        x = contract(
            _state(built, f"W{layer}", (high, low), init, sizes, span), x, sizes.sizes, span
        )
        if "bias" in flags:
            shift = _state(built, f"b{layer}", (high,), "zero", sizes, span)
            x = Apply("add", (x, shift), x.axes, (), span)
        if layer < depth:
            x = Apply(act, (x,), x.axes, (), span)
    if "layernorm" in flags:
        for name in ("norm_weight", "norm_shift"):
            sizes.claim(name, span, "a constant of the network")
        built.params += [("norm_weight", ("value",), 1.0), ("norm_shift", ("value",), 0.0)]
        affine = (Ref(n, "constant", ("value",), span) for n in ("norm_weight", "norm_shift"))
        x = Apply("layernorm", (x, *affine), x.axes, (("over", ("value",)),), span)
    if "residual" in flags:
        args, axes_ = broadcast_operands("residual", (source, x), sizes.sizes, span)
        x = Apply("add", args, axes_, (), span)
    built.network = Network(source, x, tuple(built.params))
    return built


def _state(
    built: Architecture, name: str, axes: Axes, init: str, sizes: AxisSizes, span: Span
) -> Ref:
    sizes.claim(name, span, "a weight")
    built.states.append(State(name, axes, init, span))
    return Ref(name, "state", axes, span)


def _activation(node: syntax.Formula) -> str:
    name = node.name if isinstance(node, syntax.Name) else ""
    if POINTWISE.get(name) != 1:
        known = [op for op, places in POINTWISE.items() if places == 1]
        raise problem(
            "M0202",
            "an activation is a function of one number",
            node.span,
            "unknown",
            help=did_you_mean(name, known),
        )
    return name
