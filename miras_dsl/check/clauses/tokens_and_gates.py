"""The `tokens` and `gates` clauses: formulas of the layer's input, in an order to compute them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.complex_parts import real_formula
from miras_dsl.check.formula.elaborate import Entry, Scope, elaborate
from miras_dsl.check.formula.intervals import EVERYTHING
from miras_dsl.check.formula.shapes import shown, to_axes
from miras_dsl.diagnostics import Findings, Label, Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import Axes, Expr, Gate, Ref, Token
from miras_dsl.syntax import tree as syntax

PLAIN = {"query": ("key",), "key": ("key",), "value": ("value",)}


@dataclass(frozen=True, slots=True)
class Definition:
    """One name of a `tokens` or `gates` clause, with its axes and its formula if they are written.

    kind  "token" or "gate"
    """

    kind: str
    name: str
    entries: tuple[syntax.Formula, ...] | None
    value: syntax.Formula | None
    span: Span


@dataclass(slots=True)
class Bindings:
    """Tokens and gates by name; ``failed``: names with a mistake, whose uses are not reported again."""

    tokens: dict[str, Token] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def entries(self, *, pairs: bool, tokens: bool = True) -> dict[str, Entry]:
        """Name -> reference, for formulas.

        pairs   keep the axis `pair`; without it a formula is about one pair at a time
        tokens  include tokens
        """
        found: dict[str, Entry] = {}
        known = {**(self.tokens if tokens else {}), **self.gates}
        for name, item in known.items():
            axes = item.axes if pairs else tuple(a for a in item.axes if a != "pair")
            found[name] = Ref(name, "token" if isinstance(item, Token) else "gate", axes)
        for name in self.failed:
            found[name] = _already_reported
        return found


def _already_reported(_: Span) -> Expr:
    raise Problem(None)


def binding_definitions(clause: syntax.Clause | None, kind: str) -> list[Definition]:
    """The definitions of a clause, one for each target."""
    if clause is None:
        return []
    found = []
    for binding in clause.content:  # type: ignore[union-attr]
        assert isinstance(binding, syntax.Binding)
        for target in binding.targets:
            found.append(Definition(kind, target.name, target.entries, binding.value, target.span))
    return found


def resolve_bindings(
    written: list[Definition], sizes: AxisSizes, scope: Scope, findings: Findings
) -> Bindings:
    """All tokens and gates, without ranges of gates; mistakes are added to ``findings``."""
    made = Bindings()
    for name, axes in PLAIN.items():
        made.tokens[name] = Token(name, plain_axes(name, axes, sizes), None)
    chosen: dict[str, Definition] = {}
    for item in written:
        try:
            if item.kind == "gate" and item.name in PLAIN:
                raise _names_a_token(item)
            if not (item.kind == "token" and item.name in PLAIN and item.name not in chosen):
                sizes.claim(item.name, item.span, f"a {item.kind}")
            chosen[item.name] = item
        except Problem as mistake:
            findings.add(mistake)
            made.failed.add(item.name)
    order = _in_order(chosen, findings, made.failed)
    # These are filled as definitions are checked: a copy for each would take quadratic time.
    in_gates: dict[str, Entry] = {**scope.names, **made.entries(pairs=True, tokens=False)}
    in_tokens: dict[str, Entry] = {**scope.names, **made.entries(pairs=True)}
    tokens = (*PLAIN, *(n for n, d in chosen.items() if d.kind == "token"))
    way = "a gate is made of the layer's input x and other gates: `linear(x)`"
    elsewhere = {**scope.elsewhere, **dict.fromkeys(tokens, way)}
    for name in order:
        item = chosen[name]
        try:
            if item.kind == "gate":
                made.gates[name] = _gate(
                    item,
                    sizes,
                    replace(scope, place="a gate", names=in_gates, elsewhere=elsewhere),
                )
                in_gates[name] = in_tokens[name] = Ref(name, "gate", made.gates[name].axes)
            else:
                made.tokens[name] = _token(item, sizes, replace(scope, names=in_tokens))
                in_tokens[name] = Ref(name, "token", made.tokens[name].axes)
        except Problem as mistake:
            findings.add(mistake)
            made.failed.add(name)
            in_gates[name] = in_tokens[name] = _already_reported
    return made


def _names_a_token(item: Definition) -> Problem:
    return problem(
        "M0109",
        f"`{item.name}` is a token of every memory, and a gate cannot bear its name",
        item.span,
        "a gate with the name of a token",
        help=f"name the gate `{item.name}_gate`; a token is changed in `tokens {{ {item.name} = … }}`",
    )


def plain_axes(name: str, axes: Axes, sizes: AxisSizes) -> Axes:
    """The axes of query, key and value in this memory."""
    if sizes.vector:
        axes = ("value",)
    return ("pair", *axes) if sizes.pairs > 1 and name != "query" else axes


def _gate(item: Definition, sizes: AxisSizes, scope: Scope) -> Gate:
    if item.value is None:
        raise problem(
            "M0802",
            f"the gate `{item.name}` has no formula",
            item.span,
            "no formula",
            help=f"write `{item.name} = sigmoid(linear(x))`",
        )
    axes = _written_axes(item, sizes, scope) or ()
    if len(axes) > 1 and axes != ("pair",) and "row" in axes:
        raise problem(
            "M0208", "a gate for each row has no other axis", item.span, f"{shown(axes)} here"
        )
    whole = real_formula(elaborate(item.value, replace(scope, own=axes)), "a gate")
    expr = _fitted(whole, axes, item, sizes)
    return Gate(item.name, axes, expr, EVERYTHING, item.span)


def _token(item: Definition, sizes: AxisSizes, scope: Scope) -> Token:
    axes = _written_axes(item, sizes, scope)
    if item.name in PLAIN:
        plain = plain_axes(item.name, PLAIN[item.name], sizes)
        if axes is not None and axes != plain:
            raise problem(
                "M0203",
                f"`{item.name}` is a {shown(plain)} in this memory",
                item.span,
                f"{shown(axes)} here",
                help="add `pairs(n)` to the algorithm for several pairs per token",
            )
        axes = plain
    if item.value is None:
        if axes is None:
            raise problem(
                "M0802",
                f"the token `{item.name}` has neither a formula nor axes",
                item.span,
                "nothing to go by",
                help=f"write `{item.name}[key]` for a projection of the layer's input",
            )
        return Token(item.name, axes, None, item.span)
    expr = real_formula(elaborate(item.value, replace(scope, own=axes or ())), "a token")
    if axes is None:
        axes = expr.axes
        if "width" in axes or "row" in axes:
            _fitted(expr, (), item, sizes)
        return Token(item.name, axes, expr, item.span)
    return Token(item.name, axes, _fitted(expr, axes, item, sizes), item.span)


def _written_axes(item: Definition, sizes: AxisSizes, scope: Scope) -> Axes | None:
    if item.entries is None:
        return None
    own = PLAIN.get(item.name, ()) if item.kind == "token" else ()
    inner = replace(scope, own=("value",) if sizes.vector else own)
    axes = tuple(sizes.entry(e, inner) for e in item.entries)
    if len(set(axes)) != len(axes):
        raise problem("M0208", "an axis stands here twice", item.span, "twice")
    return axes


def _fitted(expr: Expr, axes: Axes, item: Definition, sizes: AxisSizes) -> Expr:
    met = to_axes(expr, axes, sizes.sizes)
    if met is not None:
        return met
    assert item.value is not None
    extra = [a for a in expr.axes if a not in axes]
    wide = "width" in extra
    raise problem(
        "M0203",
        f"`{item.name}` is {shown(axes)}, but its formula is not",
        item.value.span,
        "the layer's input is as wide as the layer" if wide else f"{shown(expr.axes)} here",
        because=(Label(item.span, f"declared as {shown(axes)}"),),
        help="bring x to a size with `linear(x)`"
        if wide
        else f"declare it as `{item.name}{shown(expr.axes)}`",
    )


def _names(node: syntax.Formula | None) -> Iterator[str]:
    match node:
        case syntax.Name(name):
            yield name
        case syntax.Call(_, arguments):
            for argument in arguments:
                yield from _names(argument.value)
        case syntax.Unary(_, operand):
            yield from _names(operand)
        case syntax.Binary(_, left, right):
            yield from _names(left)
            yield from _names(right)
        case syntax.Literal() | syntax.Index() | None:
            return
        case _:
            assert_never(node)


def _in_order(chosen: dict[str, Definition], findings: Findings, failed: set[str]) -> list[str]:
    """The names in an order in which each comes after those it uses; cycles are reported, not included."""
    needs = {
        n: [m for m in dict.fromkeys(_names(d.value)) if m in chosen] for n, d in chosen.items()
    }
    order: list[str] = []
    state: dict[str, int] = {}
    for root in chosen:
        stack = [(root, iter(needs[root]))] if root not in state else []
        if stack:
            state[root] = 1
        while stack:
            name, rest = stack[-1]
            needed = next(rest, None)
            if needed is None:
                stack.pop()
                state[name] = 2
                order.append(name)
            elif state.get(needed) == 1:
                cycle = [n for n, _ in stack][[n for n, _ in stack].index(needed) :]
                if not failed.intersection(cycle):
                    findings.add(_cycle(cycle, chosen))
                failed.update(cycle)
            elif needed not in state:
                state[needed] = 1
                stack.append((needed, iter(needs[needed])))
    return [n for n in order if n not in failed]


def _cycle(cycle: list[str], chosen: dict[str, Definition]) -> Problem:
    first, *others = cycle
    because = tuple(Label(chosen[n].span, "and through this") for n in others[:3])
    what = f"`{first}` is defined through itself"
    help = (
        "give the new value another name"
        if not others
        else "break the circle: one of them needs another formula"
    )
    return problem(
        "M0209", what, chosen[first].span, "goes round in a circle", because=because, help=help
    )
