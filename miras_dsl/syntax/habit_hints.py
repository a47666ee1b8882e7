"""Hints for signs and forms of other languages that people write from habit.

A habit is recognised by two patterns on the line of a syntax error: before its place, and from there on.
"""

from __future__ import annotations

import re

NEAR = 120
"""Characters before and after the place that the patterns see."""

CLAUSE = r"(?:tokens|architecture|bias|retention|algorithm|order|read|gates)\s*$"
COMMENT = "a comment begins with `#`"
CHOICE = "a choice is written `where(a <= b, then, otherwise)`"
TURNED = (
    "nothing is transposed: `@` sums the axis that both sides name, as in `value @ W` and `W @ key`"
)

ORDER = "events have commas between them: `order decay, predict, write, read`"
ENTRIES = "nothing picks an entry of a vector: `linear(x)` gives each name what it needs"
LENGTH = "a length is written `norm(v)`, its square `sum(v^2)`"
BEGINS = "a weight begins as one of `= zero`, `= learned` or `= positive`"

HABITS: tuple[tuple[str, str, str], ...] = (
    # before the place, from the place on, help; <1> is the first group of the two patterns
    (r"(?:matrix|vector)\[[^\]]*\]\s*=\s*$", r"", BEGINS),
    (r"\b(\w+)\s*$", r"=\s*(matrix|vector)\b([^\]]*\]?)", 
     "a weight is declared with a colon: `<1>: <2><3>`"),
    (r"/$", r"/", COMMENT),
    (r"^\s*$", r"def\b", 
     "a loss is written in place, `bias sum(r^2)`, or named: `bias mine(r) = sum(r^2)`"),
    (r"^\s*$", r"(import|from)\b", 
     "nothing is imported: every name of the library is known; leave the line out"),
    (r"^\s*$", r"(class|struct|module)\b", "a memory is written `memory M(d) { … }`"),
    (r"", r"\\frac", "a fraction is written `a / b`"),
    (r"", r"\\([A-Za-z]+)", "names and functions stand without a backslash: `<1>`"),
    (r"", r"\|\|.*\|\|", LENGTH),
    (r"", "[\N{DOUBLE VERTICAL LINE}\N{PARALLEL TO}]", LENGTH),
    (r"", "[\N{CIRCLED DOT OPERATOR}\N{RING OPERATOR}]", "write `*`, entry by entry"),
    (r"", "[\N{CIRCLED TIMES}]", "write `outer(a, b)`"),
    (r"", "[\N{NABLA}]", "in a rule the gradient is called `grad`"),
    (r"", "[\N{DOWN TACK}\N{MODIFIER LETTER CAPITAL T}]", TURNED),
    (r"", "[\N{SQUARE ROOT}]", "write `sqrt(x)`"),
    (r"", "[\N{N-ARY SUMMATION}]", "write `sum(v)`"),
    (r"", "\N{GREEK SMALL LETTER SIGMA}", "write `sigmoid(x)`"),
    (r"", r"<\s*-|:=|\N{LEFTWARDS ARROW}", "a definition takes `=`: `W = keep(W) - eta * grad`"),
    (r"", r"%", "a share is written as a number: `0.99`"),
    (r"\d$", r",\s?\d", "a decimal comma is written as a point: `0.99`"),
    (r"\d$", r"(ms|s|k|K|px|tokens|steps)\b", "a number has no unit: write it alone"),
    (r"\d\s*/\s*$", r"/\s*\d", "a quotient is written `7 / 8`"),
    (r"", r"(for|while)\b", "a formula holds for all entries at once: `sum(r^2)`"),
    (r"", r"[-+*/]=", "nothing is changed in place: write the whole new value, `W = keep(W) + …`"),
    (r"\^\s*$", r"\{", "an exponent stands in round brackets or alone: `r^2`, `r^(1 / 2)`"),
    (r"\border\s*$", r"[\[\-({]", ORDER),
    (r"(\w+)(?:\[[^\]]*\])?\s*$", r":\s*\w+\(", "gates and tokens are defined with `=`: `<1> = …`"),
    (r"\[\s*$", r":", ENTRIES),
    (r"(\w+)\s*=\s*$", r"=", "a definition takes one `=`: `<1> = …`"),
    (r"\)\s*$", r"\[", ENTRIES),
    (r"\bmodel\b.*=.*$", r",", "blocks of a model have `;` between them: `A ; swiglu`"),
    (r"\bmodel\b.*=.*$", r"(\d+)\s*\*?\s*(\w*)", "a block is repeated as `repeat <1> { <2> }`"),
    (r"\blayer\s+(\w+)\s*$", r"\{", "a layer has no braces: `layer <1> = M with conv(4), silu`"),
    (r"\bmemory\s+(\w+)\s*$", r"\{", "a memory names its sizes: `memory <1>(d) {`, or `(dk, dv)`"),
    (r"", r"//|/\*|--", COMMENT),
    (r"\*$", r"\*", "a power is written `x^2`"),
    (r"[\w)\]]$", r"\.(T|t|mT|transpose|permute|swapaxes)\b", TURNED),
    (r"[\w)\]]$", r"'\s*[@*)]", TURNED),
    (r"\b(np|numpy|torch|jnp|math|F|tf)$", r"\.\s*\w", "functions stand alone: `abs(r)`, `exp(x)`"),
    (r"[\w)\]]$", r"\.\s*[A-Za-z_]", "functions stand before what they act on: `norm(r)`"),
    (r"", r"\.\d", "a number begins with a digit: `0.5`"),
    (r"", r"\?", CHOICE),
    (r"\bif\b.*$", r"", CHOICE),
    (r"", r"(if|else)\b", CHOICE),
    (r"", r"!=", "two things differ where `not (a == b)`"),
    (r"", r"!", "write `not`"),
    (r"", r"&", "write `and`"),
    (r"", r"\|\|", "write `or`"),
    (r"", r"\|", "write `abs(x)` for a size, `norm(v)` for a length, `or` between conditions"),
    (r"", r"['\"]", "names stand without quotes"),
    (r"", "[\N{SUPERSCRIPT TWO}\N{SUPERSCRIPT THREE}]", "a power is written `x^2`"),
    (r"", "[\N{MINUS SIGN}\N{EN DASH}\N{EM DASH}]", "write the minus of the keyboard, `-`"),
    (r"", "[\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{DOT OPERATOR}]", "write `*`"),
    (r"", "[\N{LESS-THAN OR EQUAL TO}]", "write `<=`"),
    (r"", "[\N{GREATER-THAN OR EQUAL TO}]", "write `>=`"),
    (r"", "[\u0370-\u03ff]", "write Greek letters out: `alpha`, `eta`"),
    (CLAUSE, r"[=:]", "what a clause says follows its word at once, as in `bias l2`"),
    (r"\b(decay|bregman|penalty|link|at|write)\s*$", r"[=:]",
     "what it says follows the word at once, as in `decay alpha`"),
    (r"", r":=", "a definition takes `=` alone"),
    (r"", r";", "nothing ends a line here; `;` stands between the blocks of a model only"),
    (r"\border\b[\w\s,>-]*$", r"->|(decay|predict|write|read)\b",
     ORDER),
    (r"\balgorithm\b.*$", r"(exact|anchored|window|steps|pairs|implicit|reset)\b",
     "what is added to a rule follows a comma: `gd(eta), exact`"),
    (r"\bretention\b[^{}]*$", r",", "the parts of a retention follow one another without commas"),
    (r"\blambda\b.*$", r"", "a formula needs no `lambda`: `r` is the error"),
    (r"\d\s*$", r"[A-Za-z_(]", "a product is written with its sign, as in `2 * r`"),
    (r"[)\]]\s*$", r"[(]", "a product is written with its sign, as in `(a + b) * c`"),
)  # fmt: skip


def hint_for(text: str, start: int) -> str:
    """What to write instead of the text at ``start``; empty if no habit is recognised."""
    line = text.rfind("\n", 0, start) + 1
    before = text[max(line, start - NEAR) : start]
    after = text[start : start + NEAR].split("\n", 1)[0]
    for left, right, help in HABITS:
        found = re.search(left, before), re.match(right, after)
        if found[0] and found[1]:
            groups = (*found[0].groups(), *found[1].groups())
            for number, group in enumerate(groups, 1):
                help = help.replace(f"<{number}>", group or "")
            return help
    return ""
