"""Checks one memory: its clauses, each after those that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import sympy as sp

from miras_dsl.check.clauses.algorithm.clause import (
    ResolvedAlgorithm,
    algorithm,
    resolve_algorithm,
    with_rates,
)
from miras_dsl.check.clauses.architecture import architecture, check_every_weight_is_read
from miras_dsl.check.clauses.bias import terms
from miras_dsl.check.clauses.decay import (
    check_decay_range,
    check_turns_once,
    constant_decays_as_gates,
)
from miras_dsl.check.clauses.order import order
from miras_dsl.check.clauses.read import read
from miras_dsl.check.clauses.retention import retention
from miras_dsl.check.clauses.tokens_and_gates import Bindings, binding_definitions, resolve_bindings
from miras_dsl.check.clauses.weights import check_weight_names
from miras_dsl.check.formula.axis_sizes import AxisSizes
from miras_dsl.check.formula.elaborate import Entry, Scope
from miras_dsl.check.formula.expansion_limit import ExpandedSize, expanded_size
from miras_dsl.check.formula.functions.complex_functions import ALL_FUNCTIONS as FUNCTIONS
from miras_dsl.check.formula.hoist_projections import Hoisted
from miras_dsl.check.formula.intervals import interval
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Findings, Label, Problem, problem
from miras_dsl.source import Span
from miras_dsl.spec import (
    Expr,
    Gate,
    Interval,
    MemorySpec,
    Network,
    Number,
    Ref,
    Retention,
    Term,
    Token,
    iter_nodes,
)
from miras_dsl.syntax import tree as syntax

from .signature import clauses_of, pairs_of, sizes_of, unused_sizes

MAX_EXPANDED = 5000
T = TypeVar("T")
PER_HEAD = ("head", "heads")
OF_THE_LAYER = (
    "numbers of heads stand in tokens, gates, and formulas of the clauses after the architecture"
)


def memory(
    item: syntax.Memory,
    library: Library,
    findings: Findings,
    given: Mapping[str, int] = {},
    elsewhere: Mapping[str, str] = {},
) -> MemorySpec | None:
    """The memory that ``item`` defines; None if it has mistakes, which are added to ``findings``.

    given      parameters that a layer sets, instead of their defaults
    elsewhere  names of other definitions, which a formula cannot use -> what to write instead
    """
    mine = Findings()
    try:
        made = _memory(item, library, mine, given, elsewhere)
    except Problem as mistake:
        mine.add(mistake)
        made = None
    findings.found += mine.found
    return None if mine else made


def _memory(
    item: syntax.Memory,
    library: Library,
    findings: Findings,
    given: Mapping[str, int],
    elsewhere: Mapping[str, str],
) -> MemorySpec:
    clauses = clauses_of(item, findings)
    elsewhere = {**dict.fromkeys(PER_HEAD, OF_THE_LAYER), **elsewhere}
    sizes = sizes_of(item, clauses, library, given)
    base: dict[str, Entry] = {"x": Ref("x", "x", ("width",))}
    for name, default in sizes.params.items():
        base[name] = Ref(name, "size") if default is None else Number(sp.Integer(default))
    scope = Scope(
        "the architecture", base, sizes.sizes, sizes.entry, FUNCTIONS, elsewhere=elsewhere
    )
    pairs = pairs_of(clauses["algorithm"], scope)
    if pairs > 1:
        sizes.pairs, sizes.sizes["pair"] = pairs, sp.Integer(pairs)
    place = {word: clause.span for word, clause in clauses.items()}
    built = _try(
        findings,
        lambda: architecture(clauses["architecture"], library, scope, sizes),
        place["architecture"],
    )
    if built is None:
        raise Problem(None)
    if len({state.axes for state in built.states}) == 1 and built.states[0].axes:
        sizes.single_row = built.states[0].axes[0]
    base |= {word: Ref(word, "head") for word in PER_HEAD}
    written = binding_definitions(clauses.get("tokens"), "token") + binding_definitions(
        clauses.get("gates"), "gate"
    )
    bound = resolve_bindings(written, sizes, replace(scope, place="a token", names=base), findings)
    hoisted = Hoisted(pairs)
    network = lambda argument, span: built.apply(argument, sizes.sizes, span)  # noqa: E731
    states = built.entries("state")
    names = {**base, **bound.entries(pairs=False), **states}
    inside = replace(
        scope, names=names, place="a bias", network=network, network_names=tuple({"M", built.name}),
    )  # fmt: skip
    bare = replace(
        inside,
        names={n: e for n, e in names.items() if n not in states},
        network=None,
        network_names=(),
    )
    one = Number(sp.Integer(1))
    losses = (
        _try(findings, lambda: terms(clauses["bias"], library, inside, hoisted, one), place["bias"])
        or []
    )
    written_terms: tuple[syntax.Term, ...] = clauses["bias"].content  # type: ignore[assignment]
    named = [t.name for t in written_terms if t.name]
    choice: ResolvedAlgorithm | None = _try(
        findings,
        lambda: resolve_algorithm(clauses["algorithm"], library, bare, hoisted, named),
        place["algorithm"],
    )
    kept = _try(
        findings,
        lambda: retention(
            clauses["retention"], library, bare, hoisted, built, choice and choice.eta
        ),
        place["retention"],
    )
    learned = _try(
        findings,
        lambda: choice and algorithm(clauses["algorithm"], choice, bare, sizes, hoisted, built),
        place["algorithm"],
    )
    reading = _try(
        findings,
        lambda: read(clauses.get("read"), inside, built, bound, hoisted, sizes),
        item.name_span,
    )
    if findings or kept is None or learned is None or reading is None or choice is None:
        raise Problem(None)
    losses = with_rates(losses, choice)
    _at_chunk(kept, learned.anchored is not None, clauses)
    steps = order(clauses["order"], losses, kept)
    assert built.network is not None
    check_turns_once(kept, learned)
    used = [built.network.body, reading, *_formulas(losses, kept), *(e for _, e in learned.rules)]
    used += [
        e
        for e in (learned.anchored and learned.anchored.scale, learned.window and learned.window[1])
        if e
    ]
    gates = tuple(_with_ranges([*bound.gates.values(), *hoisted.gates]))
    kept, gates = constant_decays_as_gates(kept, gates, max(learned.steps, learned.pairs))
    check_decay_range(kept, gates)
    check_weight_names(built.states, learned)
    tokens = _tokens(bound, hoisted, written, used, gates)
    made = MemorySpec(
        name=item.name,
        params=tuple(sizes.params.items()),
        sizes=tuple(_sizes_used(sizes, tokens, gates)),
        tokens=tokens,
        gates=gates,
        states=tuple(built.states),
        network=Network(built.network.input, built.network.body, built.network.params),
        terms=tuple(losses),
        retention=kept,
        algorithm=learned,
        order=steps,
        read=reading,
        unused=unused_sizes(item),
        doc=item.doc,
        span=item.name_span,
    )
    check_every_weight_is_read(made)
    _limit(used, item)
    return made


def _try(findings: Findings, part: Callable[[], T], clause: Span) -> T | None:
    """The result of ``part``; None after a mistake.  One in another file is reported at ``clause``."""
    try:
        return part()
    except Problem as mistake:
        found = mistake.diagnostic
        if found is not None and found.at.span.source != clause.source:
            here = Label(clause, "used here")
            found = replace(found, at=here, because=(found.at, *found.because))
        findings.add(Problem(found))
        return None


def _at_chunk(kept: Retention, anchored: bool, clauses: dict[str, syntax.Clause]) -> None:
    if kept.at == "chunk" and not anchored:
        raise problem(
            "M0511",
            "`at chunk` needs blocks",
            clauses["retention"].span,
            "acts at the ends of blocks",
            because=(Label(clauses["algorithm"].span, "no `anchored(…)` here"),),
            help="write `anchored(64)` in the algorithm, or `at token` here",
        )


def _formulas(losses: list[Term], kept: Retention) -> list[Expr]:
    found: list[Expr] = []
    for term in losses:
        parts = (getattr(term, n, None) for n in ("loss", "error", "place", "answer", "rate"))
        found += [p for p in parts if p is not None]
    found += [*(d.factor for d in kept.decays), *(t.angle for t in kept.turns)]
    kinds = (kept.bregman, kept.link, kept.simplex, kept.penalty)
    return found + [p for p in kinds if p is not None]


def _with_ranges(gates: list[Gate]) -> list[Gate]:
    known: dict[str, Interval] = {}
    made = []
    for gate in gates:
        known[gate.name] = interval(gate.expr, known)
        made.append(replace(gate, range=known[gate.name]))
    return made


def _tokens(
    bound: Bindings,
    hoisted: Hoisted,
    written: list,
    used: list[Expr],
    gates: tuple[Gate, ...],
) -> tuple[Token, ...]:
    """The declared tokens, and those of query, key and value that are used."""
    declared = {d.name for d in written if d.kind == "token"}
    formulas = [
        *used,
        *(t.expr for t in (*bound.tokens.values(), *hoisted.tokens) if t.expr is not None),
    ]
    named = {
        n.name for e in formulas for n in iter_nodes(e) if isinstance(n, Ref) and n.kind == "token"
    }
    return tuple(t for n, t in bound.tokens.items() if n in declared | named) + tuple(
        hoisted.tokens
    )


def _sizes_used(sizes: AxisSizes, tokens: tuple[Token, ...], gates: tuple[Gate, ...]):
    """(axis, size) of every axis; `f64` is that of a `linear(…, size = 64)` inside a formula."""
    yield from sizes.sizes.items()
    formulas = [t.expr for t in tokens if t.expr is not None] + [g.expr for g in gates]
    seen = {
        a
        for e in formulas
        for n in iter_nodes(e)
        for a in n.axes
        if a[:1] == "f" and a[1:].isdigit()
    }
    for axis in sorted(seen):
        yield axis, sp.Integer(int(axis[1:]))


def _limit(formulas: list[Expr], item: syntax.Memory) -> None:
    """Raise Problem if the formulas are too large; a part that is used twice counts twice."""
    known: dict[int, ExpandedSize] = {}
    total = sum(expanded_size(f, item.name_span, known).parts for f in formulas)
    if total > MAX_EXPANDED:
        raise problem(
            "M0003",
            f"written out, the formulas of this memory have more than {MAX_EXPANDED} parts",
            item.name_span,
            f"{min(total, 10**9)} parts",
            help="use an argument fewer times in a definition",
        )
