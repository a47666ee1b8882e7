"""Stage 3, the layer's half: formulas of tokens and gates as operations and nodes."""

from __future__ import annotations

from collections.abc import Iterable

import sympy as sp

from miras_dsl.ir import (
    HEADS,
    Axes,
    Axis,
    Input,
    Node,
    Role,
    axes_of,
    axis_of,
    elementwise,
    features,
    inputs_of,
    ordered,
    rename,
)
from miras_dsl.ir import Number as Constant
from miras_dsl.scalar import functions as scalars
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.source import NOWHERE
from miras_dsl.spec import Apply, Expr, Gate, MemorySpec, Number, Ref, State, Token

from .decay_init import decay_init
from .log_gates import log_of
from .lower import is_elementwise, lower_elementwise, summed
from .module_types import (
    MIN_GATE,
    WIDTH,
    FirstWeight,
    LayerOp,
    LayerOperation,
    LayerValue,
    ModuleModel,
    ValueKind,
    X,
)
from .types import POSITIONS

ACROSS = {
    "sum": LayerOp.SUM, "mean": LayerOp.MEAN,
    "normalize": LayerOp.NORMALIZE, "softmax": LayerOp.SOFTMAX,
}  # fmt: skip
"""Operations of the language that run over axes and are one operation of a layer."""


def build_module(spec: MemorySpec) -> ModuleModel:
    """The layer around a memory: what it computes of its input, and its first state."""
    return _Builder(spec).module()


class _Builder:
    """The operations and values met so far."""

    def __init__(self, spec: MemorySpec) -> None:
        self.spec = spec
        self.sizes: dict[Axis, sp.Expr] = {WIDTH: sp.Symbol("width")}
        self.sizes |= {axis_of(word): size for word, size in spec.sizes}
        self.sizes.setdefault(axis_of("pair"), sp.Integer(spec.algorithm.pairs))
        if spec.algorithm.anchored is not None:
            self.sizes[POSITIONS] = sp.Integer(spec.algorithm.anchored.block)
        self.operations: list[LayerOperation] = []
        self.values: dict[tuple[str, str | None], LayerValue] = {}
        self.parts: dict[object, int] = {}
        self.starts: dict[int, str] = {}
        self.nodes: dict[object, Node] = {}
        self.held: list[Expr] = []

    def module(self) -> ModuleModel:
        spec = self.spec
        for name, words, init in spec.network.params:
            self.network_constant(name, axes_of(words), init)
        for owner in (*spec.tokens, *spec.gates):
            self.define(owner)
        weights = (FirstWeight(s.name, axes_of(s.axes), s.init, s.span) for s in spec.states)
        window = spec.algorithm.window
        return ModuleModel(
            name=spec.name,
            span=spec.span,
            params=spec.params,
            sizes=tuple(self.sizes.items()),
            operations=tuple(self.operations),
            values=tuple(self.values.values()),
            weights=tuple(weights),
            positions=spec.algorithm.anchored is not None or bool(spec.algorithm.reset),
            window=window[0] if window else 1,
        )

    # -------------------------------------------------------- values

    def define(self, owner: Token | Gate) -> None:
        """A token or gate with everything that it needs, unless it is there already."""
        if isinstance(owner, Token):
            if (owner.name, None) not in self.values:
                self.token(owner)
        else:
            rows = self.spec.states if "row" in owner.axes else (None,)
            for state in rows:
                if (owner.name, state.name if state else None) not in self.values:
                    self.gate(owner, state)

    def token(self, token: Token) -> None:
        axes = axes_of(token.axes)
        if token.expr is None:
            part = self.parts.setdefault((token.name, "projection"), len(self.parts))
            formula: Node = self.add(LayerOp.LINEAR, X, (HEADS, *axes), part=part)
        else:
            formula = self.formula(token.expr, None)
        span = self.spec.span if token.span is NOWHERE else token.span
        self.values[token.name, None] = LayerValue(
            name=token.name,
            weight=None,
            kind=ValueKind.TOKEN,
            value=Input(token.name, ordered((HEADS, *axes)), Role.TOKEN),
            formula=formula,
            axes=axes,
            span=span,
            # the checker's own tokens are `_1`, `_2` …, which no author can write
            written=not token.name.startswith("_"),
        )

    def gate(self, gate: Gate, state: State | None) -> None:
        weight = state.name if state else None
        words = tuple(state.axes[0] if state and w == "row" else w for w in gate.axes)
        formula = self.formula(gate.expr, state)
        name = f"{gate.name}_{weight}" if weight else gate.name
        role = Role.GATE if _timed(formula) else Role.CONSTANT
        value = Input(name, formula.axes, role)
        derived = log_of(gate.expr)
        if derived is not None:
            logarithm = self.formula(derived, state)
        else:
            plain = formula if isinstance(formula, Constant) else value
            logarithm = elementwise(_floored_log(OPERANDS[0]), plain)
        self.values[gate.name, weight] = LayerValue(
            name=gate.name,
            weight=weight,
            kind=ValueKind.GATE,
            value=value,
            formula=formula,
            axes=axes_of(words),
            span=gate.span,
            log=logarithm,
        )

    def network_constant(self, name: str, axes: Axes, init: float) -> None:
        part = self.parts.setdefault((name, "constant"), len(self.parts))
        made = self.add(LayerOp.CONSTANT, None, (HEADS, *axes), part=part, init=float(init))
        self.values[name, None] = LayerValue(
            name, None, ValueKind.CONSTANT, made, made, axes, self.spec.span
        )

    def read(self, name: str, state: State | None) -> Node:
        """What a formula reads for the name of a token, gate or constant."""
        if (name, None) not in self.values:
            self.define(next(o for o in (*self.spec.tokens, *self.spec.gates) if o.name == name))
        own = (name, state.name if state else None)
        value = self.values[own if own in self.values else (name, None)]
        number = value.kind is ValueKind.GATE and isinstance(value.formula, Constant)
        return value.formula if number else value.value

    # -------------------------------------------------------- formulas

    def formula(self, expr: Expr, state: State | None) -> Node:
        """A formula as nodes; ``state`` is the weight that `row` speaks of."""
        self.held.append(expr)  # parts belong to nodes of the spec by identity: keep these alive
        self.starts |= decay_init(expr)
        return self.node(expr, state, False)

    def node(self, expr: Expr, state: State | None, flat: bool) -> Node:
        """``flat``: the surroundings are features without heads."""
        numbered = isinstance(expr, Apply) and expr.option("index") is not None
        key = (expr if numbered else id(expr), state.name if state else None, flat)
        if key not in self.nodes:
            self.nodes[key] = self.one(expr, state, flat)
        return self.nodes[key]

    def one(self, expr: Expr, state: State | None, flat: bool) -> Node:
        match expr:
            case Number(value=value):
                return Constant(value)
            case Ref(kind="x"):
                return X
            case Ref(kind="size", name=name):
                return Input(name, (), Role.SIZE)
            case Ref(name=name):
                return self.read(name, state)
            case Apply(op="param"):
                return self.constant(expr, state, flat)
            case Apply(op="linear" | "conv" | "shift"):
                return self.learned(expr, self.node(expr.args[0], state, flat), state)
        flat = flat or any(map(_has_features, expr.args))
        args = [self.node(arg, state, flat) for arg in expr.args]
        if expr.op == "log" and expr.option("floor"):
            return elementwise(_floored_log(OPERANDS[0]), *args)
        if is_elementwise(expr.op):
            return lower_elementwise(expr.op, args)
        return self.across(expr, args, state)

    def across(self, expr: Apply, args: list[Node], state: State | None) -> Node:
        """An operation that runs over axes, or renames them."""
        over = self.axes(summed(expr), args, state)
        match expr.op:
            case "outer":
                return args[0] * args[1]
            case "contract":
                return self.reduce(LayerOp.SUM, args[0] * args[1], over)
            case "sum" | "mean":
                return self.reduce(ACROSS[expr.op], args[0], over)
            case "norm":
                return self.reduce(LayerOp.NORM, args[0], over, power=_number(expr, "p", 2))
            case "normalize" | "softmax":
                return self.add(ACROSS[expr.op], args[0], args[0].axes, over=over)
            case "layernorm":
                x, *affine = args
                made: Node = self.add(LayerOp.STANDARDIZE, x, x.axes, over=over)
                for op, other in zip(("mul", "add"), affine, strict=False):
                    made = lower_elementwise(op, [made, other])
                return made
            case "orthogonal":
                steps = int(_number(expr, "steps", 5))
                return self.add(LayerOp.ORTHOGONAL, args[0], args[0].axes, steps=steps)
            case "retag":
                pairs = expr.option("axes", ())
                names = {
                    old: new
                    for pair in pairs  # type: ignore[attr-defined]
                    for old, new in [self.axes(pair, args, state)]
                }
                return rename(args[0], names)
        raise AssertionError(f"unknown operation {expr.op} at {expr.span.place}")

    def axes(self, words: Iterable[str], args: Iterable[Node], state: State | None) -> Axes:
        """The axes that words name: those of operands first, `row` that of the weight."""
        known = {axis.name: axis for arg in args for axis in arg.axes}
        if state is not None:
            known["row"] = axis_of(state.axes[0])
        return tuple(known.get(word) or axis_of(word) for word in words)

    def constant(self, expr: Apply, state: State | None, flat: bool) -> Node:
        """A learned constant: per head, or among features one for all heads."""
        words = expr.axes
        axes: Axes
        if flat:
            axes = (WIDTH,) if "width" in words else tuple(features(w) for w in words)
        else:
            axes = (HEADS, *self.axes(words, (), state))
        init = float(_number(expr, "init", 0))
        start = "" if init or flat else self.starts.get(id(expr), "")
        part = self.part(expr, state)
        return self.add(LayerOp.CONSTANT, None, axes, part=part, init=init, start=start)

    def learned(self, expr: Apply, x: Node, state: State | None) -> Node:
        """A learned map, or the token before."""
        match expr.op:
            case "linear":
                rank, size = (int(_number(expr, word, 0)) for word in ("rank", "size"))
                axes = (HEADS, *self.axes(expr.axes, (), state))
                if size:
                    axes = (features(f"f{size}"),)
                    self.sizes[axes[0]] = sp.Integer(size)
                return self.add(LayerOp.LINEAR, x, axes, part=self.part(expr, state), rank=rank)
            case "conv":
                width = int(_number(expr, "width", 4))
                return self.add(LayerOp.CONV, x, x.axes, part=self.part(expr, state), width=width)
            case _:
                # every shift of the layer's input is the same one
                part = self.parts.setdefault("x", len(self.parts)) if x is X else None
                part = self.part(expr, state) if part is None else part
                return self.add(LayerOp.SHIFT, x, x.axes, part=part)

    def part(self, expr: Apply, state: State | None) -> int:
        """The part of the layer that an operation belongs to: the checker numbers learned maps, and
        equal ones are one part wherever they stand."""
        numbered = expr.option("index") is not None
        key = (expr if numbered else id(expr), state.name if state else None)
        return self.parts.setdefault(key, len(self.parts))

    def reduce(self, op: LayerOp, x: Node, over: Axes, **options: sp.Expr) -> Node:
        return self.add(op, x, tuple(a for a in x.axes if a not in over), over=over, **options)

    def add(self, op: LayerOp, x: Node | None, axes: Axes, **options: object) -> Input:
        """The result of a new operation, or of the same one where it is there already."""
        timed = op in (LayerOp.CONV, LayerOp.SHIFT) or (x is not None and _timed(x))
        role = Role.TOKEN if timed else Role.CONSTANT
        key = ("operation", op, x, axes, *sorted(options.items()))
        if key not in self.nodes:
            number = len(self.operations) + 1
            result = Input(f"{op.value} {number}", ordered(axes), role)
            self.nodes[key] = result
            self.operations.append(LayerOperation(op, x, result, **options))  # type: ignore[arg-type]
        made = self.nodes[key]
        assert isinstance(made, Input)
        return made


def _number(expr: Apply, word: str, default: int) -> sp.Expr:
    """An option that is a number."""
    value = expr.option(word, default)
    if isinstance(value, sp.Expr):
        return value
    assert isinstance(value, int | float), f"not a number: {value!r}"
    return sp.Integer(value) if isinstance(value, int) else sp.Float(value)


def _floored_log(x: sp.Expr) -> sp.Expr:
    return sp.log(scalars.maximum(x, MIN_GATE))


def _timed(node: Node) -> bool:
    """Whether a value differs from token to token."""
    return any(leaf.role in (Role.TOKEN, Role.GATE) for leaf in inputs_of([node]))


def _has_features(expr: Expr) -> bool:
    """Whether a formula is over features without heads."""
    match expr:
        case Ref(kind="x"):
            return True
        case Apply(op="linear"):
            return bool(expr.option("size", 0))
        case Apply(op="param" | "contract" | "sum" | "mean" | "norm"):
            return False
        case Apply(args=args):
            return any(map(_has_features, args))
        case _:
            return False
