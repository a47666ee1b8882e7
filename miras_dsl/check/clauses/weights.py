"""Weights of a memory: their axes and how they begin, and the network M over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.elaborate import Entry, Scope
from miras_dsl.check.formula.shapes import Sizes, shown, to_axes
from miras_dsl.diagnostics import problem
from miras_dsl.source import Span
from miras_dsl.spec import Algorithm, Apply, Axes, Expr, Network, Ref, State, iter_nodes
from miras_dsl.suggestions import did_you_mean
from miras_dsl.syntax import tree as syntax

AXES = {"matrix": 2, "vector": 1, "number": 0}
"""Kinds of weights -> how many axes they have."""
INITS = ("zero", "learned", "positive")


@dataclass(slots=True)
class Architecture:
    """The weights and the network of a memory.

    name     the spec's own name for M; `M` means it too
    params   (name, axes, initial value) of learned constants of the network
    complex  complex weight -> its real and its imaginary part, two weights of ``states``
    """

    states: list[State] = field(default_factory=list)
    complex: dict[str, tuple[State, State]] = field(default_factory=dict)
    network: Network | None = None
    name: str = "M"
    params: list[tuple[str, Axes, float]] = field(default_factory=list)

    def named(self, name: str) -> list[State]:
        """The weight of a name, or the two parts of a complex one; none for another name."""
        return [s for s in self.states if s.name == name] or list(self.complex.get(name, ()))

    def entries(self, kind: str) -> dict[str, Entry]:
        """What the names of the weights mean in formulas, as references of a kind."""
        return weight_entries(self.states, self.complex, kind)

    def apply(self, argument: Expr, sizes: Sizes, span: Span) -> Expr:
        """M applied to ``argument``.  Raises Problem if its shape does not fit."""
        assert self.network is not None
        wanted = self.network.input
        met = to_axes(argument, wanted.axes, sizes)
        if met is None or len(met.axes) != 1:
            raise problem(
                "M0203",
                f"the memory looks up {shown(wanted.axes)} vectors",
                span,
                f"{shown(argument.axes)} here",
            )
        return substitute(self.network.body, wanted, met)


def weight_entries(
    states: list[State], pairs: Mapping[str, tuple[State, State]], kind: str
) -> dict[str, Entry]:
    """Weights by name: a complex one is made of its two parts, which have names of their own too."""
    names: dict[str, Entry] = {s.name: Ref(s.name, kind, s.axes) for s in states}
    for name, (real, imaginary) in pairs.items():

        def both(span: Span, real: State = real, imaginary: State = imaginary) -> Expr:
            sides = tuple(Ref(s.name, kind, s.axes, span) for s in (real, imaginary))
            return Apply("complex", sides, real.axes, (), span)

        names[name] = both
    return names


def substitute(expr: Expr, old: Ref, new: Expr) -> Expr:
    """``expr`` with every ``old`` replaced."""
    done: dict[int, Expr] = {}
    for node in iter_nodes(expr):
        if node == old:
            done[id(node)] = new
        elif isinstance(node, Apply):
            done[id(node)] = replace(node, args=tuple(done[id(a)] for a in node.args))
        else:
            done[id(node)] = node
    return done[id(expr)]


def declare(
    built: Architecture,
    weights: syntax.Weights,
    scope: Scope,
    sizes: AxisSizes,
    *,
    matrix_init: str,
    forced: str | None = None,
    layered: bool = False,
) -> None:
    """Add weights to ``built``.  Raises Problem.

    matrix_init  how matrices start if the spec does not say; vectors start at zero
    forced       how all start, whatever the spec says
    layered      the network has several matrices, and therefore hidden axes
    """
    kind = kind_of(weights.shape)
    if kind not in AXES:
        raise problem(
            "M0305",
            "a weight is a `matrix[rows, columns]`, a `vector[axis]` or a `number`",
            weights.shape.span,
            "none of these",
            help=f"write `{weights.names[0]}: matrix[value, key]` or `{weights.names[0]}: vector[value]`",
        )
    wanted = AXES[kind]
    entries = weights.shape.entries if isinstance(weights.shape, syntax.Index) else ()
    last = entries[-1] if entries else None
    is_complex = isinstance(last, syntax.Name) and last.name == "complex"
    entries = entries[:-1] if is_complex else entries
    if len(entries) != wanted:
        raise problem(
            "M0305",
            f"a {kind} has {wanted or 'no'} ax{'is' if wanted == 1 else 'es'}",
            weights.shape.span,
            f"{len(entries)} here",
            help="`matrix[value, key]` maps keys to values, `vector[key]` has a number for each channel of "
            "keys, `number` is one for each head",
        )
    axes = _weight_axes(entries, scope, sizes, layered)
    default = matrix_init if kind == "matrix" else "zero"
    init = default
    if weights.init is not None and forced is None:
        init = init_of(syntax.Name(weights.init, weights.span))
    for name in weights.names:
        if any(s.name == name for s in built.states):
            raise problem("M0109", f"the weight `{name}` is declared twice", weights.span, "again")
        sizes.claim(name, weights.span, "a weight")
        parts = (f"{name}_re", f"{name}_im") if is_complex else (name,)
        made = [State(part, axes, init, weights.span) for part in parts]
        if is_complex:
            if init == "positive":
                raise problem(
                    "M0303",
                    "a complex weight has no order, so it cannot begin positive",
                    weights.span,
                    "complex and positive",
                    help="let it begin as `zero` or `learned`",
                )
            for part in parts:
                sizes.claim(part, weights.span, f"a part of the complex weight `{name}`")
            built.complex[name] = (made[0], made[1])
        built.states += made


def _weight_axes(
    entries: tuple[syntax.Formula, ...], scope: Scope, sizes: AxisSizes, layered: bool
) -> Axes:
    axes = tuple(scope.entry(e, scope) for e in entries)
    by_name = [sizes.named((e,)) for e in entries]
    if len(axes) == 2 and layered and by_name[0] != by_name[1]:
        # `matrix[value, d]` beside other matrices: d is the size of a hidden axis
        hidden = by_name.index(False)
        size = sizes.sizes.get(axes[hidden])
        if axes[hidden] in ("key", "value") and size is not None:
            axes = (sizes.hidden(size), axes[1]) if hidden == 0 else (axes[0], sizes.hidden(size))
    if len(axes) == 2 and axes[0] == axes[1]:
        size = sizes.sizes.get(axes[0])
        if not any(by_name) and axes[0] in ("key", "value") and sizes.twins("key", "value"):
            return ("value", "key")
        if not all(by_name) and layered and size is not None:
            return (axes[0], sizes.second(axes[0], size))
        raise problem(
            "M0305",
            "the two axes of a matrix need different names",
            entries[1].span,
            "the same axis again",
            help="a memory takes a key to a value: `matrix[value, key]`; a hidden axis of a network is a "
            "size beside a name: `matrix[d, key]` and `matrix[value, d]`",
        )
    for axis, entry in zip(axes, entries, strict=True):
        if axis in ("pair", "row", "position"):
            raise problem(
                "M0305",
                f"a weight cannot have the axis {axis}",
                entry.span,
                "belongs to tokens and gates",
            )
    return axes


def init_of(node: syntax.Formula) -> str:
    """How a weight starts: "zero", "learned" or "positive".  Raises Problem for another word."""
    name = node.name if isinstance(node, syntax.Name) else ""
    if name not in INITS:
        raise problem(
            "M0303",
            f"a weight begins as {', '.join(INITS[:-1])} or {INITS[-1]}",
            node.span,
            "none of these",
            help=did_you_mean(name, INITS),
        )
    return name


def kind_of(shape: syntax.Reference) -> str:
    """The word before the brackets of a shape: "matrix" or "vector", if it is well formed."""
    return shape.name


def check_weight_names(states: list[State], algorithm: Algorithm) -> None:
    """Raise Problem for names of weights that have another meaning in a state or in generated code.

    The states of a weight `W` are called `W_anchor`, `W_dual`, `W_1` … and `S_W`, its cotangent `d_W`,
    and its value before the change at a block's end `open_W`.
    """
    sweeps = algorithm.anchored.sweeps if algorithm.anchored else 1
    for state in states:
        meant = (
            "an answer" if state.name == "y" else "a mark of real tokens" * (state.name == "valid")
        )
        for other in (s.name for s in states):
            derived = {f"{other}_{n}" for n in ("anchor", "dual", *range(1, sweeps))}
            derived |= {f"{carry}_{other}" for carry in algorithm.carry}
            derived |= {f"d_{other}", f"open_{other}"}
            meant = meant or f"what is carried for `{other}`" * (state.name in derived)
        if meant:
            raise problem(
                "M0108",
                f"`{state.name}` is reserved and cannot name a weight",
                state.span,
                f"the name of {meant}",
                help=f"take another name, such as `my_{state.name}`",
            )
