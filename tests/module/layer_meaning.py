"""What a layer computes, evaluated from its stage-2 formulas without any generated code.

A value is a tensor [B, T, H, *axes] with named axes; a number per token has H = 1 or 1s for what it
lacks.  Features without heads have the one axis `*`.  Learned parts are found in the layer by the
names that a reader would expect: the token or gate they stand in, what they are, and a number from
the second of a kind on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from miras_dsl.spec import Apply, Axes, Expr, Gate, MemorySpec, Number, Ref, Token

FLAT = ("*",)
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Named:
    """A tensor [B, T, H, *axes], any of the first three 1."""

    data: Tensor
    axes: Axes = ()

    def on(self, axes: Axes) -> Tensor:
        """The data with exactly these axes; 1 for each that it lacks."""
        order = [3 + self.axes.index(a) for a in axes if a in self.axes]
        data = self.data.permute(0, 1, 2, *order)
        for place, axis in enumerate(axes):
            data = data if axis in self.axes else data.unsqueeze(3 + place)
        return data


def united(*values: Named) -> Axes:
    """All axes of some values, each once."""
    return tuple(dict.fromkeys(a for value in values for a in value.axes))


POINTWISE: Mapping[str, Callable[..., Tensor]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "neg": lambda a: -a,
    "abs": lambda a: torch.where(a < 0, -a, a),
    "sign": lambda a: torch.tanh(10 * a),
    "sqrt": lambda a: a**0.5,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sinh": lambda a: (torch.exp(a) - torch.exp(-a)) / 2,
    "cosh": lambda a: (torch.exp(a) + torch.exp(-a)) / 2,
    "erf": torch.erf,
    "sigmoid": lambda a: 1 / (1 + torch.exp(-a)),
    "softplus": lambda a: torch.clamp(a, min=0) + torch.log1p(torch.exp(-torch.abs(a))),
    "relu": lambda a: torch.clamp(a, min=0),
    "silu": lambda a: a / (1 + torch.exp(-a)),
    "gelu": lambda a: a * (1 + torch.erf(a / 2**0.5)) / 2,
    "gelu_tanh": lambda a: a * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (a + 0.044715 * a**3))) / 2,
    "max": lambda a, b: torch.where(a > b, a, b),
    "min": lambda a, b: torch.where(a < b, a, b),
    "where": lambda c, a, b: torch.where(c > 0.5, a, b),
    "lt": lambda a, b: (a < b).to(a.dtype),
    "le": lambda a, b: (a <= b).to(a.dtype),
    "gt": lambda a, b: (a > b).to(a.dtype),
    "ge": lambda a, b: (a >= b).to(a.dtype),
    "and": lambda a, b: a * b,
    "or": lambda a, b: a + b - a * b,
    "not": lambda a: 1 - a,
}


@dataclass
class LayerMeaning:
    """The tokens and gates of a memory on x [B, T, width].

    backbone   conv, activation and normalised names of the layer around it
    parameters of the memory by name
    """

    spec: MemorySpec
    parameters: Parameters
    heads: int
    x: Tensor
    activation: str | None = None
    normalize: tuple[str, ...] = ("query", "key")
    known: dict[str, Named] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    parts: dict[tuple[str, Expr], str] = field(default_factory=dict)

    def feed(self, name: str) -> Named:
        """A token or gate by name."""
        if name not in self.known:
            owner = next(o for o in (*self.spec.tokens, *self.spec.gates) if o.name == name)
            made = self.token(owner) if isinstance(owner, Token) else self.gate(owner)
            self.known[name] = Named(self.everywhere(made.on(owner.axes)), owner.axes)
        return self.known[name]

    def everywhere(self, data: Tensor) -> Tensor:
        """The data for every token and head, were it a constant."""
        return data.expand(*self.x.shape[:2], self.heads, *data.shape[3:])

    def gate(self, gate: Gate) -> Named:
        made = self.value(gate.expr, gate.name)
        return Named(made.data, ()) if made.axes == FLAT else made

    def token(self, token: Token) -> Named:
        if token.expr is None:
            weight = self.parameters[f"{token.name}_linear.weight"]
            made = Named(self.spread(self.x @ weight.T, token), token.axes)
        else:
            made = self.value(token.expr, token.name)
            if made.axes == FLAT:
                made = Named(self.spread(made.data[:, :, 0], token), token.axes)
        data = self.everywhere(made.on(token.axes))
        projected = token.name in ("query", "key", "value")
        kernel = self.parameters.get(f"{token.name}_shape.conv.weight")
        if projected and kernel is not None:
            data = convolved(data, kernel)
        if projected and self.activation == "silu":
            data = data / (1 + torch.exp(-data))
        if token.name in self.normalize:
            data = data / length(data, (-1,), 2)[..., None].clamp(min=1e-6)
        return Named(data, token.axes)

    def spread(self, x: Tensor, token: Token) -> Tensor:
        """Features as heads and the token's axes."""
        pairs = (self.spec.algorithm.pairs,) if "pair" in token.axes else ()
        return x.reshape(*x.shape[:2], self.heads, *pairs, -1)

    def part(self, expr: Apply, owner: str) -> str:
        """The name of the learned part of a node; equal numbered nodes are one part."""
        if (owner, expr) not in self.parts:
            base = f"{owner}_{expr.op}"
            self.counts[base] = self.counts.get(base, 0) + 1
            number = self.counts[base]
            self.parts[owner, expr] = base if number == 1 else f"{base}_{number}"
        return self.parts[owner, expr]

    def value(self, expr: Expr, owner: str) -> Named:
        """A formula of a token or gate."""
        match expr:
            case Number(value=number):
                return Named(self.x.new_full((1, 1, 1), float(number)))
            case Ref(kind="x"):
                return Named(self.x.unsqueeze(2), FLAT)
            case Ref(kind="head", name="head"):
                numbers = torch.arange(1, self.heads + 1, dtype=self.x.dtype)
                return Named(numbers[None, None])
            case Ref(kind="head"):
                return Named(self.x.new_full((1, 1, 1), self.heads))
            case Ref(kind="token" | "gate", name=name):
                return self.feed(name)
            case Apply(op="param"):
                data = self.parameters[self.part(expr, owner)]
                if expr.axes and data.dim() == 1:  # among features, for all heads
                    return Named(data[None, None, None], FLAT)
                data = data[None, None]
                return Named(data, expr.axes if data.dim() > 3 else ())
            case Apply(op="pow", args=(base, Number(value=power))):
                inner = self.value(base, owner)
                return Named(inner.data ** float(power), inner.axes)
            case Apply(args=args):
                return self.applied(expr, [self.value(arg, owner) for arg in args], owner)
        raise AssertionError(f"no meaning for {expr}")

    def applied(self, expr: Apply, values: list[Named], owner: str) -> Named:
        if expr.op in POINTWISE:
            axes = united(*values)
            return Named(POINTWISE[expr.op](*(v.on(axes) for v in values)), axes)
        first = values[0]
        over = FLAT if first.axes == FLAT else tuple(expr.option("over", ()))  # type: ignore
        dims = tuple(3 + first.axes.index(a) for a in over if a in first.axes)
        rest = tuple(a for a in first.axes if a not in over)
        match expr.op:
            case "shift":
                return Named(earlier(first.data, 1), first.axes)
            case "conv":
                kernel = self.parameters[f"{self.part(expr, owner)}.weight"]
                return Named(convolved(first.data, kernel), first.axes)
            case "linear":
                return self.linear(expr, first, owner)
            case "normalize":
                size = length(first.data, dims or (-1,), 2).clamp(min=1e-6)
                return Named(first.data / size.unsqueeze(-1), first.axes)
            case "sum":
                return Named(first.data.sum(dims), rest)
            case "mean":
                return Named(first.data.mean(dims), rest)
            case "norm":
                p = float(expr.option("p", 2))  # type: ignore[arg-type]
                return Named(length(first.data, dims, p), rest)
            case "softmax":
                powers = torch.exp(first.data)
                return Named(powers / powers.sum(dims, keepdim=True), first.axes)
            case "topk":
                return Named(largest(first.data, dims[0], int(expr.option("count"))), first.axes)  # type: ignore
            case "layernorm":
                away = first.data - first.data.mean(dims, keepdim=True)
                spread = torch.sqrt((away**2).mean(dims, keepdim=True) + 1e-6)
                made = Named(away / spread, first.axes)
                for op, other in zip(("mul", "add"), values[1:], strict=False):
                    made = Named(POINTWISE[op](made.data, other.on(made.axes)), made.axes)
                return made
            case "contract":
                axes = united(*values)
                both = values[0].on(axes) * values[1].on(axes)
                dims = tuple(3 + axes.index(a) for a in over)
                return Named(both.sum(dims), tuple(a for a in axes if a not in over))
            case "retag":
                names = dict(expr.option("axes", ()))  # type: ignore[call-overload]
                return Named(first.data, tuple(names.get(a, a) for a in first.axes))
        raise AssertionError(f"no meaning for {expr.op}")

    def linear(self, expr: Apply, x: Named, owner: str) -> Named:
        name = self.part(expr, owner)
        data = x.data.flatten(2)
        if (down := self.parameters.get(f"{name}.down")) is not None:
            data = data @ down.T
        made = data @ self.parameters[f"{name}.weight"].T
        if expr.option("size"):
            return Named(made.unsqueeze(2), FLAT)
        shape = [self.heads] if not expr.axes else [self.heads, -1]
        return Named(made.reshape(*made.shape[:2], *shape), expr.axes)


def largest(x: Tensor, dim: int, count: int) -> Tensor:
    """The largest entry is taken, the first of equal ones, as often as ``count`` says."""
    left, kept = x.detach().movedim(dim, -1).clone(), torch.zeros_like(x.movedim(dim, -1))
    for _ in range(min(count, x.shape[dim])):
        place = left.argmax(-1, keepdim=True)
        kept = kept.scatter(-1, place, 1.0)
        left = left.scatter(-1, place, -torch.inf)
    return x * kept.movedim(-1, dim)


def length(x: Tensor, dims: tuple[int, ...], p: float) -> Tensor:
    """The p-norm, with slope 0 where it is 0."""
    total = (x.abs() ** p).sum(dims)
    there = total > 0
    return torch.where(there, torch.where(there, total, 1.0) ** (1 / p), 0.0)


def earlier(x: Tensor, tokens: int) -> Tensor:
    """Each token's value some tokens before; zero before the first."""
    padded = F.pad(x.movedim(1, -1), (tokens, 0)).movedim(-1, 1)
    return padded[:, : x.shape[1]]


def convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """A causal depthwise convolution; the newest token has the first weight."""
    kernel = kernel.unsqueeze(1) if kernel.dim() == x.dim() - 2 else kernel
    return sum((w * earlier(x, lag) for lag, w in enumerate(kernel)), torch.zeros_like(x))


def answered(y: Tensor, x: Tensor, p: Parameters) -> Tensor:
    """A memory's answer [B, T, H, size] as features: norm, gate, projection."""
    if "answer.norm.weight" in p:
        size = torch.sqrt((y**2).mean(-1, keepdim=True) + 1e-6)
        y = y / size * p["answer.norm.weight"]
    y = y.flatten(2)
    if "answer.gate.weight" in p:
        gate = x @ p["answer.gate.weight"].T
        y = y * gate / (1 + torch.exp(-gate))
    return y @ p["answer.project.weight"].T
