"""What a memory has before any of its formulas is read: its clauses, sizes and pairs."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from miras_dsl.check.clauses.architecture import is_vector
from miras_dsl.check.formula.axis_sizes import CLAUSES, AxisSizes
from miras_dsl.check.formula.elaborate import Scope, integer_literal
from miras_dsl.check.formula.functions.complex_functions import ALL_FUNCTIONS as FUNCTIONS
from miras_dsl.check.library.load import Library
from miras_dsl.diagnostics import Findings, Label, Problem, problem
from miras_dsl.syntax import tree as syntax
from miras_dsl.syntax.recovery import word_spans

REQUIRED = ("architecture", "bias", "retention", "algorithm", "order")


def clauses_of(item: syntax.Memory, findings: Findings) -> dict[str, syntax.Clause]:
    """The clauses of a memory by word.

    Raises Problem if one is missing or written twice; what is wrong is then in ``findings``.
    """
    found: dict[str, syntax.Clause] = {}
    for clause in item.clauses:
        if clause.word in found:
            because = (Label(found[clause.word].word_span, "first written here"),)
            what = f"`{clause.word}` is written twice"
            findings.add(
                problem(
                    "M0106",
                    what,
                    clause.word_span,
                    "again",
                    because=because,
                    help="keep one of them",
                )
            )
        found.setdefault(clause.word, clause)
    for word in REQUIRED:
        if word not in found:
            hint = {
                "retention": "write `retention none` for a memory that keeps everything",
                "order": "it changes the model: write `order predict, decay, write, read`, say",
            }.get(word, f"add a line `{word} …`")
            what = f"the memory `{item.name}` has no `{word}`"
            findings.add(problem("M0107", what, item.name_span, f"no `{word}` clause", help=hint))
    if findings:
        raise Problem(None)
    assert found.keys() <= CLAUSES
    return found


def sizes_of(
    item: syntax.Memory,
    clauses: dict[str, syntax.Clause],
    library: Library,
    given: Mapping[str, int],
) -> AxisSizes:
    """The size parameters of a memory, and the sizes of its axes `key` and `value`.

    given  parameters that a layer sets, instead of their defaults

    Raises Problem for parameters that leave no or several ways to size keys and values.
    """
    sizes = AxisSizes({})
    scope = Scope("a parameter", {}, {}, sizes.entry, FUNCTIONS, features=False)
    for param in item.params:
        sizes.claim(param.name, param.span, "a parameter")
        default = (
            None
            if param.default is None
            else integer_literal(param.default, scope, f"the default of `{param.name}`")
        )
        sizes.params[param.name] = given.get(param.name, default)
    free = [n for n, default in sizes.params.items() if default is None]
    if len(free) not in (1, 2):
        raise problem(
            "M0110",
            "a memory has one size for keys and values, `(d)`, or two, `(dk, dv)`",
            item.name_span,
            f"{len(free)} sizes without a default",
            help="give every other parameter a default, such as `n = 2`",
        )
    sizes.vector = is_vector(clauses["architecture"], library)
    if not sizes.vector:
        sizes.sizes["key"] = sp.Symbol(free[0])
    sizes.sizes["value"] = sp.Symbol(free[-1])
    if sizes.vector and len(free) == 2:
        raise problem(
            "M0110",
            "a vector memory has one size",
            item.name_span,
            "two sizes here",
            help="write `(d)`",
        )
    return sizes


def unused_sizes(item: syntax.Memory) -> tuple[str, ...]:
    """The size parameters that no clause names, out of those that size no key and no value."""
    words = {
        clause.span.source.text[start:end]
        for clause in item.clauses
        for start, end in word_spans(clause.span.source.text, clause.span.start, clause.span.end)
    }
    return tuple(p.name for p in item.params if p.default is not None and p.name not in words)


def pairs_of(clause: syntax.Clause, scope: Scope) -> int:
    """The number of (key, value) pairs of a token, from `pairs(n)` in the algorithm; 1 without it."""
    for part in clause.content:  # type: ignore[union-attr]
        if isinstance(part, syntax.Call) and part.name == "pairs" and part.arguments:
            return integer_literal(part.arguments[0].value, scope, "the number of pairs", 1, 64)
    return 1
