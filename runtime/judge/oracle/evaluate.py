"""The oracle's arithmetic: it evaluates stage-2 formulas on torch tensors whose axes have names.

It is written for the judge alone and shares nothing with the compiler.  Where a function has a
kink it takes these subgradients: `abs`, `sqrt`, `norm` and powers that are no whole number have
slope 0 at 0; `max`, `min` and `relu` (`max(x, 0)`) follow their first operand at a tie; comparisons
and `exact_sign` have slope 0 everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor
from torch.nn import functional

from miras_dsl.spec import Apply, Axes, Expr, Number, Ref, iter_nodes

from .named_tensor import NamedTensor, positions, product, union

ANY = ""
"""The name in a scope of a value that rules refer to by kind alone: `keep`, `weight`, `grad`."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What the names of a formula stand for.

    names     (kind, name) -> value; a per-row gate has the name `gate.weight`
    row       the weight whose per-row gates are meant, in a formula that holds for each weight
    rounding  the type to which operands of products are rounded; None: they are not
    kinks     a list to which every operation with a kink adds a value that is 0 at the kink
    partial   the root of a negative number is NaN, as in a potential, whose domain it bounds; else 0
    """

    names: Mapping[tuple[str, str], NamedTensor]
    rounding: torch.dtype | None = None
    row: str | None = None
    kinks: list[NamedTensor] | None = None
    partial: bool = False

    def value(self, ref: Ref) -> NamedTensor:
        """The value of a name.  Raises ValueError for a name without one."""
        for name in (ref.name, f"{ref.name}.{self.row}", ANY):
            if (found := self.names.get((ref.kind, name))) is not None:
                return found
        raise ValueError(f"the oracle was given no value for {ref.kind} `{ref.name}`")

    def with_names(
        self, names: Mapping[tuple[str, str], NamedTensor], row: str | None = None
    ) -> Scope:
        """The same scope with more names, and for the weight ``row``."""
        return replace(self, names={**self.names, **names}, row=row or self.row)


def evaluate(expr: Expr, scope: Scope) -> NamedTensor:
    """The value of a stage-2 formula in a scope.

    Raises ValueError for a name without a value and for operations of the layer (`FEATURE`).
    """
    match expr:
        case Number(value=number):
            like = next(iter(scope.names.values())).data
            return NamedTensor(
                torch.full((1, 1), float(number), dtype=like.dtype, device=like.device)
            )
        case Ref():
            return scope.value(expr)
        case Apply(op=op) if op in _ALONG_AXES:
            return _ALONG_AXES[op](expr, [evaluate(arg, scope) for arg in expr.args], scope)
        case Apply(op="log", args=(arg,)) if (found := _logarithm(arg, scope)) is not None:
            return found
        case Apply(op="pow", args=(base, Number(value=exponent))):
            inner = evaluate(base, scope)
            return NamedTensor(_power(inner.data, float(exponent)), inner.axes)
        case Apply(op=op) if op in _ELEMENTWISE:
            values = [evaluate(arg, scope) for arg in expr.args]
            axes = union(*(value.axes for value in values))
            given = [value.align_to(axes) for value in values]
            if scope.kinks is not None and op in _WITH_KINK:
                scope.kinks.append(
                    NamedTensor(given[0] - given[1] if len(given) == 2 else given[0], axes)
                )
            function = torch.sqrt if op == "sqrt" and scope.partial else _ELEMENTWISE[op]
            return NamedTensor(function(*given), axes)
    raise ValueError(f"`{getattr(expr, 'op', expr)}` belongs to the layer, not to the memory")


def _logarithm(expr: Expr, scope: Scope) -> NamedTensor | None:
    """The logarithm of a sum of exponentials, which may itself be larger than any number of the type;
    None for anything else."""
    match expr:
        case Number(value=number) if number > 0:
            value = evaluate(expr, scope)
            return NamedTensor(torch.log(value.data), value.axes)
        case Apply(op="exp", args=(arg,)):
            return evaluate(arg, scope)
        case Apply(op="cosh", args=(arg,)):
            return _logcosh(evaluate(arg, scope))
        case Apply(op="add", args=(Apply(op="exp", args=(a,)), Apply(op="exp", args=(b,)))) if (
            b == Apply("neg", (a,), a.axes)
        ):
            half = _logcosh(evaluate(a, scope))
            return NamedTensor(half.data + log(2), half.axes)
        case Apply(op="add" | "mul" as op, args=(left, right)):
            if not any(_exponential(part) for part in (left, right)):
                return None
            a, b = _logarithm(left, scope), _logarithm(right, scope)
            if a is None or b is None:
                return None
            axes = union(a.axes, b.axes)
            joined = torch.logaddexp if op == "add" else torch.add
            return NamedTensor(joined(a.align_to(axes), b.align_to(axes)), axes)
        case Apply(op="sum", args=(arg,)) if (terms := _logarithm(arg, scope)) is not None:
            dims, rest = positions(terms, _over(expr, terms))
            return NamedTensor(torch.logsumexp(terms.data, dims) if dims else terms.data, rest)
    return None


def _logcosh(x: NamedTensor) -> NamedTensor:
    """log(cosh(x)); beyond 20 the smaller of its two exponentials is less than a rounding error."""
    near = x.data.abs() < 20
    small = torch.where(near, x.data, torch.zeros_like(x.data))
    return NamedTensor(
        torch.where(near, torch.log(torch.cosh(small)), x.data.abs() - log(2)), x.axes
    )


def _exponential(expr: Expr) -> bool:
    """Whether a formula has an exponential in it."""
    return any(isinstance(n, Apply) and n.op in ("exp", "cosh") for n in iter_nodes(expr))


def _power(x: Tensor, exponent: float) -> Tensor:
    if exponent == int(exponent):
        return x ** int(exponent)
    safe = torch.where(x != 0, x, torch.ones_like(x))
    return torch.where(x != 0, safe**exponent, torch.zeros_like(x))


def _square_root(x: Tensor) -> Tensor:
    positive = x > 0
    root = torch.sqrt(torch.where(positive, x, torch.ones_like(x)))
    return torch.where(positive, root, torch.zeros_like(x))


def _number(flags: Tensor, like: Tensor) -> Tensor:
    return flags.to(like.dtype)


_WITH_KINK = {"abs", "exact_sign", "relu", "max", "min", "lt", "le", "gt", "ge"}
"""Operations with a kink or jump: where their operand is 0, or their two operands are equal."""
_ELEMENTWISE: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": lambda x: torch.tanh(10 * x),
    "exact_sign": torch.sign,
    "sqrt": _square_root,
    "exp": torch.exp,
    "log": torch.log,
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "erf": torch.erf,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": lambda x: torch.where(x >= 0, x, torch.zeros_like(x)),
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "max": lambda a, b: torch.where(a >= b, a, b),
    "min": lambda a, b: torch.where(a <= b, a, b),
    "where": lambda c, a, b: torch.where(c != 0, a, b),
    "lt": lambda a, b: _number(a < b, a),
    "le": lambda a, b: _number(a <= b, a),
    "gt": lambda a, b: _number(a > b, a),
    "ge": lambda a, b: _number(a >= b, a),
    "eq": lambda a, b: _number(a == b, a),
    "and": lambda a, b: _number((a != 0) & (b != 0), a),
    "or": lambda a, b: _number((a != 0) | (b != 0), a),
    "not": lambda a: _number(a == 0, a),
}


def _over(expr: Apply, *values: NamedTensor) -> Axes:
    """The axes that an operation sums over: those that the formula names, else all of its operands."""
    over = expr.option("over")
    if isinstance(over, str):
        return (over,)
    return tuple(over) if over else union(*(value.axes for value in values))  # type: ignore[arg-type]


def _sum(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    (value,) = values
    dims, rest = positions(value, _over(expr, value))
    return NamedTensor(value.data.sum(dims) if dims else value.data, rest)


def _mean(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    (value,) = values
    dims, rest = positions(value, _over(expr, value))
    return NamedTensor(value.data.mean(dims) if dims else value.data, rest)


def _norm(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    """The p-norm, with every derivative 0 where the norm is 0."""
    (value,) = values
    dims, rest = positions(value, _over(expr, value))
    p = float(expr.option("p", 2))  # type: ignore[arg-type]
    powers = value.data**2 if p == 2 else value.data.abs() ** p
    total = powers.sum(dims) if dims else powers
    positive = total > 0
    safe = torch.where(positive, total, torch.ones_like(total))
    return NamedTensor(torch.where(positive, safe ** (1 / p), torch.zeros_like(total)), rest)


def _retag(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    (value,) = values
    names: dict[str, str] = dict(expr.option("axes", ()))  # type: ignore[call-overload]
    return NamedTensor(value.data, tuple(names.get(axis, axis) for axis in value.axes))


def _layernorm(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    value, *affine = values
    over = _over(expr, value)
    dims, _ = positions(value, over)
    centred = value.data - value.data.mean(dims, keepdim=True)
    variance = (centred**2).mean(dims, keepdim=True)
    result = centred / torch.sqrt(variance + 1e-6)
    if affine:
        result = result * affine[0].align_to(value.axes)
    if len(affine) == 2:
        result = result + affine[1].align_to(value.axes)
    return NamedTensor(result, value.axes)


def _softmax(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    (value,) = values
    dims, _ = positions(value, _over(expr, value))
    shifted = torch.exp(value.data - value.data.detach().amax(dims, keepdim=True))
    return NamedTensor(shifted / shifted.sum(dims, keepdim=True), value.axes)


def _contract(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    left, right = values
    over = expr.option("over")
    shared = tuple(axis for axis in left.axes if axis in right.axes)
    return product(left, right, _over(expr) if over else shared, scope.rounding)


def _outer(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    return product(values[0], values[1], (), scope.rounding)


def _orthogonal(expr: Apply, values: list[NamedTensor], scope: Scope) -> NamedTensor:
    """Newton-Schulz with coefficients 3.4445, -4.775, 2.0315 on X / max(|X|, 1e-6), or on its transpose
    if it has more rows than columns."""
    (value,) = values
    rows, columns = value.axes[-2:]
    size = _norm(Apply("norm", (), options=(("over", (rows, columns)),)), [value], scope).data
    x = NamedTensor(value.data / size.clamp_min(1e-6)[..., None, None], value.axes)
    if value.data.shape[-2] > value.data.shape[-1]:
        rows, columns = columns, rows

    def renamed(v: NamedTensor, axis: str, name: str) -> NamedTensor:
        return NamedTensor(v.data, tuple(name if a == axis else a for a in v.axes))

    for _ in range(int(expr.option("steps", 5))):  # type: ignore[call-overload]
        gram = product(x, renamed(x, rows, "_"), (columns,), scope.rounding)
        other = renamed(renamed(gram, "_", "__"), rows, "_")
        square = product(gram, other, ("_",), scope.rounding)
        squared = renamed(square, "__", "_").align_to((rows, "_"))
        mix = -4.775 * gram.align_to((rows, "_")) + 2.0315 * squared
        step = product(NamedTensor(mix, (rows, "_")), renamed(x, rows, "_"), ("_",), scope.rounding)
        x = NamedTensor(3.4445 * x.data + step.align_to(x.axes), x.axes)
    return x


_ALONG_AXES: Mapping[str, Callable[[Apply, list[NamedTensor], Scope], NamedTensor]] = {
    "contract": _contract,
    "outer": _outer,
    "sum": _sum,
    "mean": _mean,
    "norm": _norm,
    "retag": _retag,
    "layernorm": _layernorm,
    "softmax": _softmax,
    "orthogonal": _orthogonal,
}
