"""What is told about a text that the grammar does not take: the place, what could stand there, a way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miras_dsl.diagnostics import Label, Problem, problem
from miras_dsl.suggestions import close_word

from .habit_hints import hint_for
from .prelex import Chunk, SourceMap, shortened
from .recovery import CLAUSES, word_spans

if TYPE_CHECKING:
    from lark.exceptions import UnexpectedInput

OPERATORS = frozenset(
    {"PLUS", "MINUS", "STAR", "SLASH", "AT_SIGN", "CMP", "CIRCUMFLEX", "AND", "OR", "NOT"}
)
PARTS_OF_RETENTION = frozenset({"DECAY", "BREGMAN", "PENALTY", "LINK", "AT"})
OPENING = frozenset({"LPAR", "LSQB"})
CLAUSE_TERMINALS = frozenset(word.upper() for word in CLAUSES)
SIGNS = {
    "COMMA": "`,`", "COLON": "`:`", "SEMICOLON": "`;`", "EQUAL": "`=`", "LPAR": "`(`",
    "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "LBRACE": "`{`", "RBRACE": "`}`",
}  # fmt: skip
OTHER_WORDS = {
    "loss": "bias", "objective": "bias", "cost": "bias", "forget": "retention", "decay": "retention",
    "retain": "retention", "regularizer": "retention", "optimizer": "algorithm", "update": "algorithm",
    "rule": "algorithm", "rules": "algorithm", "learning": "algorithm", "learn": "algorithm",
    "network": "architecture", "structure": "architecture", "weights": "architecture",
    "state": "architecture", "states": "architecture", "arch": "architecture", "events": "order",
    "sequence": "order", "schedule": "order", "output": "read", "readout": "read", "answer": "read",
    "inputs": "tokens", "input": "tokens", "projections": "tokens", "params": "gates",
    "parameters": "gates", "hyperparameters": "gates", "where": "gates",
}  # fmt: skip
"""Words that people write for a clause."""
USAGE = {
    "memory": "a memory is written `memory M(d) { architecture …  bias …  retention …  algorithm …  "
    "order … }`",
    "layer": "a layer is written `layer L(heads = 4) = M with conv(4), silu`",
    "model": "a model is written `model T(width = 128, vocab = 256) = repeat 2 { L ; swiglu }`",
    "bias": "a bias is written `bias quartic(r, s = 1) = s * sum(r^4)`",
    "retention": "a retention is written `retention soft(alpha, c) = decay alpha  link a * c`",
    "algorithm": "an algorithm is written `algorithm sgd(eta) { W = keep(W) - eta * grad }`",
    "architecture": "an architecture is written `architecture net(h) { A: matrix[value, h]  "
    "B: matrix[h, key]  M(z) = A @ gelu(B @ z) }`",
}
"""First word of a definition -> how such a definition is written."""


EXAMPLES = {
    "tokens": "{ key = normalize(linear(x)) }",
    "architecture": "W: matrix[value, key]",
    "bias": "l2",
    "retention": "decay alpha",
    "algorithm": "gd(eta), exact",
    "order": "predict, decay, write, read",
    "read": "W @ query",
    "gates": "{ alpha, eta = sigmoid(linear(x)) }",
}
"""Clause -> an example of what it says."""


def syntax_problem(error: UnexpectedInput, part: Chunk, places: SourceMap) -> Problem:
    """The problem that an error of the parser stands for; ``part`` is the definition it is in."""
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
            help=USAGE.get(part.word, "something is still missing after this"),
        )
    start = part.start + (token.start_pos or 0)
    word = str(token)
    of_list = _trailing_comma(part, places, start, word) or _empty_clause(part, places, start)
    if of_list is not None:
        return of_list
    text = places.source.text
    first_of_line = not text[text.rfind("\n", 0, start) + 1 : start].strip()
    clauses = accepted & CLAUSE_TERMINALS
    named = token.type == "NAME" and len(clauses) > 1
    meant = close_word(word, CLAUSES, OTHER_WORDS) if named else ""
    span = places.span(start, start + len(word))
    if meant and (first_of_line or word not in OTHER_WORDS):
        return problem(
            "M0101",
            f"a memory has no clause `{shortened(word)}`",
            span,
            "not a clause",
            help=f"did you mean `{meant}`?",
        )
    help = _hint(word, accepted) or hint_for(text, start)
    if named and first_of_line and not help:
        return problem(
            "M0101",
            f"a memory has no clause `{shortened(word)}`",
            span,
            wanted,
            help=f"its clauses are {', '.join(f'`{c}`' for c in CLAUSES)}",
        )
    keyword = token.type not in ("NAME", "NUMBER", *OPERATORS) and word.isidentifier()
    shown = shortened(word)
    what = f"the word `{shown}` cannot stand here" if keyword else f"`{shown}` does not fit here"
    if not help and word == "," and "RBRACE" in accepted:
        help = "definitions in braces follow one another without commas, on one line or on several"
    before = text[max(start - 40, 0) : start].rstrip()
    side_by_side = bool(before) and (before[-1].isalnum() or before[-1] in "_)]")
    if not help and word.isidentifier() and side_by_side:
        help = "two things side by side are no product: write `a * b`, or `W @ key` to sum an axis"
    return problem("M0101", what, span, wanted, help=help)


def _trailing_comma(part: Chunk, places: SourceMap, start: int, word: str) -> Problem | None:
    """The problem of a comma behind which nothing follows: an end, or the word of the next clause."""
    before = word_spans(places.source.text, part.start, start)[-2:]
    text = places.source.text
    words = [text[a:b] for a, b in before]
    comma = -1
    if words and words[-1] == "," and word in (")", "]", "}", ","):
        comma = before[-1][0]
    elif len(words) == 2 and words[0] == "," and words[1] in CLAUSES:
        own_line = "\n" in text[before[0][1] : before[1][0]]
        comma = before[0][0] if own_line else -1
    if comma < 0:
        return None
    following = places.span(*before[-1]) if words[-1] != "," else places.span(start, start + 1)
    return problem(
        "M0101",
        "nothing that belongs to a list follows this comma",
        places.span(comma, comma + 1),
        "a comma too many",
        because=(Label(following, "the list ends before this"),)
        if following.line != places.span(comma, comma + 1).line
        else (),
        help="leave the comma out: it stands between two entries only",
    )


def _empty_clause(part: Chunk, places: SourceMap, start: int) -> Problem | None:
    """The problem of a clause that says nothing, so that the word of the next one was read as a name."""
    text = places.source.text
    before = word_spans(text, part.start, start)[-2:]
    words = [text[a:b] for a, b in before]
    if len(words) < 2 or words[1] not in EXAMPLES:
        return None
    if words[0] in ("+", "-", "*", "/", "@", "^", "<", ">", "="):
        return problem(
            "M0101",
            f"the right side of this `{words[0]}` is missing",
            places.span(*before[0]),
            "nothing follows it",
            because=(Label(places.span(*before[1]), "the next clause"),),
            help="write what stands on its right, or leave the sign out",
        )
    if words[0] not in EXAMPLES:
        return None
    return problem(
        "M0101",
        f"`{words[0]}` says nothing",
        places.span(*before[0]),
        "nothing between this word and the next clause",
        because=(Label(places.span(*before[1]), "the next clause"),),
        help=f"write `{words[0]} {EXAMPLES[words[0]]}`",
    )


def _wanted(accepted: set[str]) -> str:
    """What could have stood there, most general first."""
    clauses = accepted & CLAUSE_TERMINALS
    found: list[str] = []
    if "NUMBER" in accepted:
        found.append("a formula")
    else:
        if "NAME" in accepted:
            found.append("a name")
        if len(accepted & OPERATORS) > 1:
            found.append("an operator")
    if len(accepted & PARTS_OF_RETENTION) > 1:
        found.append("a part of the retention")
    if len(clauses) > 1:
        found.append("the next clause")
    general = bool(found)
    for name in sorted(accepted, key=lambda n: (n in SIGNS, n)):
        if name == "$END":
            found.append("the end of the definition")
        elif name in OPENING and general:
            continue
        elif name in SIGNS:
            found.append(SIGNS[name])
        elif name not in OPERATORS | {"NAME", "NUMBER"} and not (
            (name in clauses and len(clauses) > 1)
            or (name in PARTS_OF_RETENTION and len(accepted & PARTS_OF_RETENTION) > 1)
        ):
            found.append(f"`{name.lower()}`")
    if not found:
        return "unexpected"
    return "expected " + (", ".join(found[:-1]) + " or " if len(found) > 1 else "") + found[-1]


def _hint(word: str, accepted: set[str]) -> str:
    if word == "=" and "CMP" in accepted and "EQUAL" not in accepted:
        return "a comparison is written `==`; only arguments and definitions take `=`"
    return ""
