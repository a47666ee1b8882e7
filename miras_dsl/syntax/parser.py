"""From text to a syntax tree (`syntax.File`).

The text is first split into definitions (`prelex`), and each is parsed by itself, so that one mistake
does not hide another.  Trees are built without recursion and are at most 64 levels deep.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from miras_dsl.diagnostics import Findings, Problem, SpecErrors, problem
from miras_dsl.source import Source

from . import tree as syntax
from .habit_hints import hint_for
from .prelex import LATER, Chunk, SourceMap, split_definitions
from .tree_builder import TreeBuilder

if TYPE_CHECKING:
    from lark import Lark
    from lark.exceptions import UnexpectedInput

SIGNS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "PLUS": "an operator",
    "MINUS": "an operator",
    "STAR": "an operator",
    "SLASH": "an operator",
    "AT_SIGN": "an operator",
    "CMP": "an operator",
    "CIRCUMFLEX": "an operator",
    "AND": "an operator",
    "OR": "an operator",
    "$END": "the end of the definition",
}


def parse(source: Source) -> syntax.File:
    """The syntax tree of a text.  Raises SpecErrors with every syntax error."""
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
        try:
            items.append(_item(part, places, build))
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


def _item(part: Chunk, places: SourceMap, build: TreeBuilder) -> syntax.Item:
    from lark.exceptions import UnexpectedInput as Unexpected
    from lark.exceptions import VisitError

    if part.word in LATER:
        raise problem(
            "M0105",
            f"`{part.word}` is not part of this version of the language",
            places.span(part.start, part.start + len(part.word)),
            "not yet a definition",
            help="memories, layers and models can be defined; leave this definition out",
        )
    text = places.source.text[part.start : part.end]
    try:
        tree = grammar().parse(text)
    except Unexpected as error:
        raise _syntax_problem(error, part, places) from None
    try:
        return build.item(tree, part)
    except VisitError as error:
        if isinstance(error.orig_exc, Problem):
            raise error.orig_exc from None
        raise


def _syntax_problem(error: UnexpectedInput, part: Chunk, places: SourceMap) -> Problem:
    from lark.exceptions import UnexpectedToken

    if not isinstance(error, UnexpectedToken):
        start = part.start + (error.pos_in_stream or 0)
        return problem("M0101", "this does not fit here", places.span(start, start + 1))
    token = error.token
    accepted = {str(name) for name in (error.accepts or error.expected or ())}
    wanted = _wanted(accepted)
    if token.type == "$END":
        return problem(
            "M0104",
            "this definition ends too early",
            places.span(max(part.start, part.end - 1), part.end),
            wanted,
            help="something is still missing after this",
        )
    start = part.start + (token.start_pos or 0)
    word = str(token)
    shown = word if len(word) <= 40 else word[:37] + "…"
    keyword = token.type not in SIGNS and word.isidentifier()
    what = f"the word `{shown}` cannot stand here" if keyword else f"`{shown}` does not fit here"
    help = _hint(word, accepted) or hint_for(places.source.text, start)
    if not help and word == "," and "RBRACE" in accepted:
        help = "definitions in braces follow one another without commas, on one line or on several"
    return problem("M0101", what, places.span(start, start + len(word)), wanted, help=help)


def _wanted(accepted: set[str]) -> str:
    words = {t.name: t.pattern.value for t in grammar().terminals if t.pattern.type == "str"}
    shown = sorted({SIGNS.get(name) or f"`{words.get(name, name)}`" for name in accepted})
    # names and signs first; with many choices a list helps less than the first of them
    shown.sort(key=lambda s: s.startswith("`"))
    if not shown:
        return "unexpected"
    head = shown[:9]
    return "expected " + (", ".join(head[:-1]) + " or " if len(head) > 1 else "") + head[-1]


def _hint(word: str, accepted: set[str]) -> str:
    if word == "=" and "CMP" in accepted:
        return "a comparison is written `==`; only arguments and definitions take `=`"
    return ""
