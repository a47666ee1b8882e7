"""Gates as a new layer has them: their formulas on random features, with learned parts at their start.

A linear map of features starts with standard deviation 1/2 of its result, for features of size 1; a
constant starts at the number that its formula gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import exp, expm1, log, prod

import torch
from torch import Tensor

from miras_dsl.spec import Apply, Axes, Expr, Gate, MemorySpec, Number, Ref, iter_nodes

from .evaluate import Scope, evaluate
from .named_tensor import NamedTensor

FEATURES = 32
FLAT = ("features",)
SPREAD = 0.5
"""Of a learned linear map: the standard deviation of its result, over the size of its features."""
CONV_SPREAD = 3**-0.5
"""The same of a convolution, whose weights are uniform within 1 / sqrt(width)."""


@dataclass
class FreshGates:
    """The gates of a memory for every token, drawn from ``random``.

    tokens  the memory's tokens [batch, time, heads, *axes], which a gate's formula may read
    extent  the size of each axis
    shape   (batch, time, heads)
    """

    spec: MemorySpec
    tokens: Mapping[str, Tensor]
    extent: Mapping[str, int]
    shape: tuple[int, int, int]
    random: torch.Generator
    known: dict[tuple[object, str], NamedTensor] = field(default_factory=dict)

    def gate(self, gate: Gate, axes: Axes, row: str = "") -> Tensor:
        """A gate [batch, time, heads, *axes]; of one per row that of the weight ``row``."""
        batch, time, heads = self.shape
        extent = [self.extent[axis] for axis in axes]
        found = self._of_gate(gate, row).align_to(axes)
        return found.expand(batch * time, heads, *extent).reshape(batch, time, heads, *extent)

    def _of_gate(self, gate: Gate, row: str) -> NamedTensor:
        key = (gate.name, row if "row" in gate.axes else "")
        if key not in self.known:
            starts = _starts(gate.expr)
            self.known[key] = self._value(gate.expr, row, starts)
        return self.known[key]

    def _value(self, expr: Expr, row: str, starts: Mapping[int, str]) -> NamedTensor:
        match expr:
            case Ref(kind="x"):
                return self._normal(FLAT, "x")
            case Ref(kind="head", name=name):
                count = self.shape[2]
                numbers = torch.arange(1, count + 1, dtype=torch.float64)
                return NamedTensor((numbers if name == "head" else numbers[-1:])[None])
            case Ref(kind="gate", name=name):
                return self._of_gate(next(g for g in self.spec.gates if g.name == name), row)
            case Ref(kind="token", name=name, axes=axes):
                return NamedTensor(self.tokens[name].flatten(0, 1), axes)
            case Ref(kind="size", name=name):
                return NamedTensor(torch.full((1, 1), float(self.extent[name])).double())
            case Apply(op="param"):
                return self._once(expr, row, lambda: self._constant(expr, row, starts))
            case Apply(op="linear", args=(arg,)):
                inner = self._value(arg, row, starts)
                axes = FLAT if expr.option("size") else self._axes(expr.axes, row)
                size = SPREAD * float(inner.data.square().mean().sqrt())
                return self._once(expr, row, lambda: self._normal(axes, "", size))
            case Apply(op="conv", args=(arg, *_)):
                inner = self._value(arg, row, starts)
                return NamedTensor(CONV_SPREAD * inner.data, inner.axes)
            case Apply(op="shift", args=(arg,)):
                return self._value(arg, row, starts)
            case Apply(op="normalize", args=(arg,)):
                inner = self._value(arg, row, starts)
                return NamedTensor(
                    torch.nn.functional.normalize(inner.data, dim=-1, eps=1e-6), inner.axes
                )
            case Apply(op="topk", args=(arg,)):
                return _largest(self._value(arg, row, starts), int(expr.option("count")))  # type: ignore[call-overload]
            case Apply(args=args):
                names: dict[tuple[str, str], NamedTensor] = {
                    ("dual", ""): NamedTensor(torch.zeros(1, 1, dtype=torch.float64))
                }
                operands: list[Expr] = []
                for place, arg in enumerate(args):
                    if isinstance(arg, Number):
                        operands.append(arg)
                        continue
                    value = self._value(arg, row, starts)
                    names["drawn", str(place)] = value
                    operands.append(Ref(str(place), "drawn", value.axes))
                return evaluate(replace(expr, args=tuple(operands)), Scope(names))
        return evaluate(expr, Scope({("dual", ""): NamedTensor(torch.zeros(1, 1).double())}))

    def _once(self, expr: Apply, row: str, make) -> NamedTensor:
        """A learned part; equal numbered ones are one part."""
        key = (expr if expr.option("index") is not None else id(expr), row)
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def _axes(self, axes: Axes, row: str) -> Axes:
        own = next((state for state in self.spec.states if state.name == row), None)
        return axes if own is None else own.with_rows(axes)

    def _extents(self, axes: Axes) -> list[int]:
        return [FEATURES if axis in (*FLAT, "width") else self.extent[axis] for axis in axes]

    def _normal(self, axes: Axes, name: str, size: float = 1.0) -> NamedTensor:
        if name and (name, "") in self.known:
            return self.known[name, ""]
        batch, time, heads = self.shape
        shape = (batch * time, 1 if axes == FLAT else heads, *self._extents(axes))
        made = NamedTensor(
            size * torch.randn(shape, generator=self.random, dtype=torch.float64), axes
        )
        if name:
            self.known[name, ""] = made
        return made

    def _constant(self, expr: Apply, row: str, starts: Mapping[int, str]) -> NamedTensor:
        axes = self._axes(expr.axes, row)
        shape = (1, self.shape[2], *self._extents(axes))
        init = float(expr.option("init", 0) or 0)  # type: ignore[arg-type]
        if init or not (start := starts.get(id(expr))):
            return NamedTensor(torch.full(shape, init, dtype=torch.float64), axes)
        uniform = torch.rand(prod(shape), generator=self.random, dtype=torch.float64).tolist()
        if start == "rate":
            values = [log(1 + 15 * u) for u in uniform]
        else:
            steps = [exp(log(1e-3) + u * log(1e2)) for u in uniform]
            values = [step + log(-expm1(-step)) for step in steps]
        return NamedTensor(torch.tensor(values, dtype=torch.float64).reshape(shape), axes)


def _largest(x: NamedTensor, count: int) -> NamedTensor:
    """An entry of the last axis stays if fewer than ``count`` are before it: larger, or equal and first."""
    mine, other = x.data[..., :, None], x.data[..., None, :]
    earlier = torch.ones_like(other.expand_as(mine * other)).tril(-1) > 0
    before = (other > mine) | ((other == mine) & earlier)
    return NamedTensor(torch.where(before.sum(-1) < count, x.data, 0.0), x.axes)


def _starts(expr: Expr) -> dict[int, str]:
    """id of a constant -> how it starts in `exp(param) * softplus(... + param)`, the rate of a decay:
    the first is the logarithm of a rate from 1 to 16, the second makes the softplus 0.001 to 0.1."""
    found: dict[int, str] = {}
    for node in iter_nodes(expr):
        factors = list(_flat(node, "mul")) if isinstance(node, Apply) and node.op == "mul" else []
        rates = [f.args[0] for f in factors if _is(f, "exp") and _is(f.args[0], "param")]
        sums = [list(_flat(f.args[0], "add")) for f in factors if _is(f, "softplus")]
        steps = [t for terms in sums if len(terms) > 1 for t in terms if _is(t, "param")]
        if rates and steps:
            found |= {id(rate): "rate" for rate in rates} | {id(step): "step" for step in steps}
    return found


def _flat(expr: Expr, op: str) -> Iterator[Apply]:
    if isinstance(expr, Apply):
        if expr.op == op or (op == "mul" and expr.op == "neg"):
            for arg in expr.args:
                yield from _flat(arg, op)
        else:
            yield expr


def _is(expr: Expr, op: str) -> bool:
    return isinstance(expr, Apply) and expr.op == op
