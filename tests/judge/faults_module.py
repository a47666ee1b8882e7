"""Faults of the module around a memory: formulas and their logarithms, parts, layers, models.

They are planted under whole layers and models, which `tests.module.layer_certificate` judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from miras_dsl.codegen.emit import scalar_printer
from miras_dsl.codegen.emit.layer import composition, elementwise, operations
from miras_dsl.codegen.model import build_module, layer_formulas, log_gates, lower
from miras_dsl.codegen.model.module_types import HEAD, LayerOp, LayerOperation
from miras_dsl.ir import Node
from miras_dsl.runtime.execute.packed import CuSeqlens
from miras_dsl.runtime.layers import conv_state, lm_blocks
from miras_dsl.runtime.layers import parts as layers
from miras_dsl.runtime.layers.conv_state import ConvState
from miras_dsl.spec import Apply, Chain, Expr, Number, Together
from tests.judge.faults import Patch, fault


def _logarithm(patch: Patch, change: Callable[[Expr, Expr | None], Expr | None]) -> None:
    """Change the logarithms of formulas and of their parts."""
    made = log_gates.log_of

    def changed(expr: Expr) -> Expr | None:
        return change(expr, made(expr))

    patch.setattr(log_gates, "log_of", changed)
    patch.setattr(build_module, "log_of", changed)


def _is(expr: Expr | None, op: str) -> bool:
    return isinstance(expr, Apply) and expr.op == op


# ------------------------------------------------------------ logarithms of gates


@fault("layer, power", "the logarithm of a sigmoid is that of its complement")
def _(patch: Patch) -> None:
    def change(expr: Expr, log: Expr | None) -> Expr | None:
        if not (_is(expr, "sigmoid") and isinstance(expr, Apply)):
            return log
        return Apply("neg", (Apply("softplus", expr.args, expr.axes),), expr.axes)

    _logarithm(patch, change)


@fault("layer, complement", "the logarithm of 1 - sigmoid has lost its sign")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: log.args[0] if _is(expr, "sub") and isinstance(log, Apply) else log,
    )


@fault("layer", "the logarithm of e^x is e^x")
def _(patch: Patch) -> None:
    _logarithm(patch, lambda expr, log: expr if _is(expr, "exp") else log)


@fault("layer, power", "the logarithm of a power forgets the exponent")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: log.args[1] if _is(expr, "pow") and isinstance(log, Apply) else log,
    )


@fault("layer, power", "the logarithm of a product is that of its first factor")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: log.args[0] if _is(expr, "mul") and isinstance(log, Apply) else log,
    )


@fault("layer, root", "the logarithm of a quotient adds")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: (
            replace(log, op="add") if _is(expr, "div") and isinstance(log, Apply) else log
        ),
    )


@fault("layer, root", "the logarithm of a root is not halved")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: log.args[1] if _is(expr, "sqrt") and isinstance(log, Apply) else log,
    )


@fault("layer, power", "the logarithm of a number is the number less 1")
def _(patch: Patch) -> None:
    _logarithm(patch, lambda expr, log: Number(expr.value - 1) if isinstance(expr, Number) else log)


@fault("layer, taken", "the logarithm that is taken of a gate does not go below that of 0.95")
def _(patch: Patch) -> None:
    patch.setattr(log_gates, "MIN_GATE", sp.Float("0.95"))


# ------------------------------------------------------------ formulas


@fault("layer, product", "a product loses the brackets of its sums")
def _(patch: Patch) -> None:
    made, wrapped = elementwise.print_with_strength, scalar_printer._wrapped

    def bare(*given: Any) -> tuple[str, int]:
        scalar_printer._wrapped = lambda part, needed: part[0]
        try:
            return made(*given)
        finally:
            scalar_printer._wrapped = wrapped

    patch.setattr(elementwise, "print_with_strength", bare)


@fault("layer", "a product is a sum")
def _(patch: Patch) -> None:
    made = lower.lower_elementwise

    def added(op: str, args: list[Node]) -> Node:
        return made("add" if op == "mul" else op, args)

    patch.setattr(layer_formulas, "lower_elementwise", added)


@fault("layer", "two learned maps of a formula are one")
def _(patch: Patch) -> None:
    made: Any = operations.FormulaWriter.declare

    def shared(self: Any, operation: LayerOperation, owner: str, text: Any) -> str:
        name = made(self, operation, owner, text)
        linear = operation.op is LayerOp.LINEAR
        return self.computed.setdefault(f"first map of {owner}", name) if linear else name

    patch.setattr(operations.FormulaWriter, "declare", shared)


# ------------------------------------------------------------ parts


@fault("layer", "a convolution gives the newest token the oldest one's weight")
def _(patch: Patch) -> None:
    made = ConvState.lagged

    def turned(self: ConvState, kind: str, *rest: Any) -> list[Tensor]:
        found = made(self, kind, *rest)
        return found[::-1] if kind == "conv" else found

    patch.setattr(ConvState, "lagged", turned)


@fault("layer", "a convolution forgets the call before")
def _(patch: Patch) -> None:
    made = ConvState.lagged

    def forgetful(self: ConvState, kind: str, name: str, *rest: Any) -> list[Tensor]:
        found = made(self, kind, name, *rest)
        self.tails[kind][name] = torch.zeros_like(self.tails[kind][name])
        return found

    patch.setattr(ConvState, "lagged", forgetful)


@fault("layer", "a convolution reaches into the packed sequence before")
def _(patch: Patch) -> None:
    made = conv_state.gather_index

    def over(bounds: CuSeqlens, length: int, lags: int) -> tuple[Tensor, Tensor]:
        now, last = made(bounds, length, lags)
        rows = len(bounds) * lags
        token, ago = torch.arange(length), torch.arange(lags + 1)[:, None]
        return torch.where(token >= ago, rows + token - ago, now), last

    patch.setattr(conv_state, "gather_index", over)


@fault("layer", "a shift gives the token itself")
def _(patch: Patch) -> None:
    made = layers.Shift.forward
    patch.setattr(layers.Shift, "forward", lambda self, x, past: made(self, x, past) * 0 + x)


@fault("layer", "the norm of a token is its sum of squares")
def _(patch: Patch) -> None:
    patch.setattr(layers, "unit", lambda x, axis: x / x.square().sum(axis, keepdim=True))


@fault("layer", "a token is normed before its activation")
def _(patch: Patch) -> None:
    def early(self: Any, token: Tensor, past: ConvState) -> Tensor:
        token = self.conv(token, past) if self.conv is not None else token
        token = layers.unit(token, -1) if self.normalize else token
        return torch.nn.functional.silu(token) if self.activation else token

    patch.setattr(layers.TokenPreprocess, "forward", early)


@fault("layer", "heads of a projection are laid out last")
def _(patch: Patch) -> None:
    made = layers.Linear.forward

    def turned(self: Any, x: Tensor) -> Tensor:
        found = made(self, x)
        if len(self.shape) != 2:
            return found
        return found.flatten(-2).unflatten(-1, self.shape[::-1]).transpose(-1, -2)

    patch.setattr(layers.Linear, "forward", turned)


@fault("layer", "a low-rank map is halved")
def _(patch: Patch) -> None:
    made = layers.Linear.forward

    def half(self: Any, x: Tensor) -> Tensor:
        return made(self, x) * (0.5 if self.down is not None else 1)

    patch.setattr(layers.Linear, "forward", half)


@fault("layer", "the norm of an answer has no root")
def _(patch: Patch) -> None:
    def rootless(self: Any, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6) * self.weight

    patch.setattr(layers.RMSNorm, "forward", rootless)


@fault("layer", "an answer is gated before it is normed")
def _(patch: Patch) -> None:
    def early(self: Any, answer: Tensor, x: Tensor) -> Tensor:
        answer = self.norm(answer * torch.nn.functional.silu(self.gate(x)))
        return self.project(answer.flatten(-2))

    patch.setattr(layers.OutputProjection, "forward", early)


# ------------------------------------------------------------ heads and largest entries


@fault("layer, words", "heads are counted from 0")
def _(patch: Patch) -> None:
    made = operations.FormulaWriter.input

    def earlier(self: Any, node: Any) -> Any:
        found = made(self, node)
        return replace(found, text=f"({found.text} - 1)") if node is HEAD else found

    patch.setattr(operations.FormulaWriter, "input", earlier)


@fault("layer, words", "one entry too many stays among the largest")
def _(patch: Patch) -> None:
    made = operations.FormulaWriter.operation

    def more(self: Any, operation: LayerOperation) -> Any:
        return made(self, replace(operation, count=operation.count + 1))

    patch.setattr(operations.FormulaWriter, "operation", more)


@fault("layer, words", "the logarithm of 1 - e^x is -e^x")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: (
            Apply("neg", (expr.args[1],), expr.axes)
            if _is(expr, "sub") and isinstance(expr, Apply)
            else log
        ),
    )


@fault("layer, words", "the logarithm of a power of 2 is its exponent")
def _(patch: Patch) -> None:
    _logarithm(
        patch,
        lambda expr, log: expr.args[1] if _is(expr, "pow") and isinstance(expr, Apply) else log,
    )


# ------------------------------------------------------------ layers and models


@fault("layers", "the parts of a chain all read its input")
def _(patch: Patch) -> None:
    made: Any = composition._compose

    def flat(body: Any, *rest: Any) -> Any:
        if isinstance(body, Chain):
            for part in body.parts:
                last = made(part, *rest)
            return last
        return made(body, *rest)

    patch.setattr(composition, "_compose", flat)


@fault("layers", "of memories side by side the last one answers")
def _(patch: Patch) -> None:
    made: Any = composition._compose

    def last(body: Any, source: str, names: Any, steps: list[Any]) -> Any:
        found = made(body, source, names, steps)
        if isinstance(body, Together):
            target, name, text = steps[-1]
            steps[-1] = (target, name, text.split(" + ")[-1])
        return found

    patch.setattr(composition, "_compose", last)


@fault("model", "a block of a model drops what it was given")
def _(patch: Patch) -> None:
    made = lm_blocks.MixerBlock.forward

    def bare(self: Any, x: Tensor, *rest: Any) -> Any:
        y, state = made(self, x, *rest)
        return y - x, state

    patch.setattr(lm_blocks.MixerBlock, "forward", bare)


@fault("model", "a feed-forward block drops what it was given")
def _(patch: Patch) -> None:
    made = lm_blocks.FeedForward.forward

    def bare(self: Any, x: Tensor, *rest: Any) -> Any:
        y, state = made(self, x, *rest)
        return y - x, state

    patch.setattr(lm_blocks.FeedForward, "forward", bare)


@fault("model", "a block of a model reads its input without the norm")
def _(patch: Patch) -> None:
    def bare(self: Any, x: Tensor, state: Any = None, cu_seqlens: Any = None) -> Any:
        y, kept = self.layer(x, state, cu_seqlens)
        return x + y, kept

    patch.setattr(lm_blocks.MixerBlock, "forward", bare)


@fault("model", "the head of a model has no norm")
def _(patch: Patch) -> None:
    patch.setattr(
        lm_blocks.Head, "forward", lambda self, x: torch.nn.functional.linear(x, self.weight)
    )
