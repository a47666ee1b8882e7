"""Stage 3, the layer's half: every token and gate with its formula, and the first state."""

from __future__ import annotations

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
    ordered,
)
from miras_dsl.ir import Number as Constant
from miras_dsl.scalar.functions import OPERANDS
from miras_dsl.source import NOWHERE
from miras_dsl.spec import Gate, MemorySpec, State, Token

from .layer_formulas import LayerFormulas, timed
from .log_gates import floored_log, log_of
from .module_types import (
    WIDTH,
    FirstWeight,
    LayerValue,
    ModuleModel,
    ValueKind,
)
from .types import POSITIONS


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
        self.values: dict[tuple[str, str | None], LayerValue] = {}
        self.formulas = LayerFormulas(self.read, self.sizes)

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
            operations=tuple(self.formulas.operations),
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
            formula: Node = self.formulas.projection(token.name, axes)
        else:
            formula = self.formulas.formula(token.expr, None)
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
        words = state.with_rows(gate.axes) if state else gate.axes
        formula = self.formulas.formula(gate.expr, state)
        name = f"{gate.name}_{weight}" if weight else gate.name
        role = Role.GATE if timed(formula) else Role.CONSTANT
        value = Input(name, formula.axes, role)
        derived = log_of(gate.expr)
        if derived is not None:
            logarithm = self.formulas.formula(derived, state)
        else:
            plain = formula if isinstance(formula, Constant) else value
            logarithm = elementwise(floored_log(OPERANDS[0]), plain)
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
        made = self.formulas.network_constant(name, axes, float(init))
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
