"""From text to a syntax tree (`syntax.File`).

The text is first split into definitions (`prelex`), and each is parsed by itself, a memory with a mistake
clause by clause (`recovery`), so that one mistake does not hide another.  Trees are built without
recursion and are at most 64 levels deep.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from miras_dsl.diagnostics import Findings, Problem, SpecErrors, problem
from miras_dsl.source import Source

from . import tree as syntax
from .prelex import LATER, Chunk, SourceMap, split_definitions
from .recovery import without_clause
from .syntax_errors import syntax_problem
from .tree_builder import TreeBuilder

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

MOST_ERRORS = 8
"""After so many syntax errors a file is not read on."""


def parse(source: Source) -> syntax.File:
    """The syntax tree of a text.  Raises SpecErrors with its syntax errors, up to `MOST_ERRORS`."""
    findings = Findings()
    places = SourceMap(source)
    try:
        parts = split_definitions(source, places, findings)
    except Problem as stop:
        findings.add(stop)
        raise SpecErrors(findings.found) from None
    items: list[syntax.Item] = []
    build = TreeBuilder(places)
    for part in parts:
        if len(findings.found) >= MOST_ERRORS:
            break
        try:
            tree = _tree(part, places, findings)
            if tree is not None:
                items.append(_item(tree, part, build))
        except Problem as mistake:
            findings.add(mistake)
    if findings:
        raise SpecErrors(findings.found)
    return syntax.File(source, tuple(items))


@cache
def grammar() -> Lark:
    """The Lark parser of one definition, built at its first use."""
    from lark import Lark

    text = files("miras_dsl.syntax").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(
        text, parser="lalr", lexer="contextual", propagate_positions=True, maybe_placeholders=False
    )


def _tree(part: Chunk, places: SourceMap, findings: Findings) -> Tree[Token] | None:
    """Lark's tree of a definition; None if it has syntax errors, which are added to ``findings``.

    A memory is read again without each clause that has an error, so that the errors of others are found.
    """
    from lark.exceptions import UnexpectedInput as Unexpected

    if part.word in LATER:
        raise problem(
            "M0105",
            f"`{part.word}` is not part of this version of the language",
            places.span(part.start, part.start + len(part.word)),
            "not yet a definition",
            help="memories, layers and models can be defined; leave this definition out",
        )
    text: str | None = places.source.text[part.start : part.end]
    whole = True
    while text is not None and len(findings.found) < MOST_ERRORS:
        try:
            tree = grammar().parse(text)
            return tree if whole else None
        except Unexpected as error:
            findings.add(syntax_problem(error, part, places))
            whole = False
            at = error.pos_in_stream
            text = without_clause(text, at) if part.word == "memory" and at is not None else None
    return None


def _item(tree: Tree[Token], part: Chunk, build: TreeBuilder) -> syntax.Item:
    from lark.exceptions import VisitError

    try:
        return build.item(tree, part)
    except VisitError as error:
        if isinstance(error.orig_exc, Problem):
            raise error.orig_exc from None
        raise
