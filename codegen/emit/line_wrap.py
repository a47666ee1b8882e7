"""Long lines of generated code, broken as a person would break them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 100


def statement(target: str, expression: str, comment: str, indent: int = 4) -> list[str]:
    """``target = expression  # comment`` in lines of at most `WIDTH` characters where it can be."""
    line = f"{target} = {expression}" + (f"  # {comment}" if comment else "")
    if len(line) + indent <= WIDTH:
        return [line]
    if len(f"{target} = {expression}") + indent <= WIDTH:
        return [f"# {target} {comment}", f"{target} = {expression}"]
    end = f"  # {comment}" if comment else ""
    parts = _terms(expression)
    if len(parts) == 1:
        parts = _arguments(expression)
        if len(parts) == 1:
            body = _chain(expression, WIDTH - indent - 4)
            if max(map(len, body)) <= WIDTH - indent - 4:
                return [f"{target} = (", *(f"    {line}" for line in body), f"){end}"]
            return [f"# {target} {comment}", f"{target} = {expression}"]
        head, *inner, tail = parts
        body = [
            line
            for piece in _packed(inner, WIDTH - indent - 4)
            for line in _opened(piece, indent + 4)
        ]
        return [f"{target} = {head}", *(f"    {line}" for line in body), f"{tail}{end}"]
    body = [line for piece in parts for line in _opened(piece, indent + 4)]
    if all(len(piece) + indent + 4 <= WIDTH for piece in body) and body == parts:
        body = _filled(parts, WIDTH - indent - 4)
    return [f"{target} = (", *(f"    {line}" for line in body), f"){end}"]


def assignment(target: str, expression: str, indent: int = 8) -> list[str]:
    """``target = expression`` in lines of at most `WIDTH` characters where it can be."""
    return [line for line in statement(target, expression, "", indent) if line != f"# {target} "]


def under_comment(lines: Sequence[str], title: str, place: str, indent: int = 8) -> list[str]:
    """Statements that come from a place of a spec: one that fits with its place behind it, else under
    a comment that names what they make."""
    if len(lines) == 1 and len(line := f"{lines[0]}  # {place}") + indent <= WIDTH:
        return [line]
    return [f"# {title}: {place}", *lines]


def _opened(piece: str, indent: int) -> list[str]:
    """A term or an argument in one line, or with its brackets opened onto lines of their own."""
    if len(piece) + indent <= WIDTH:
        return [piece]
    whole = piece.removesuffix(",")
    end = piece[len(whole) :]
    *factors, last = _split(whole, (" * ", " / "))
    if factors:
        filled = _filled([*factors, last + end], WIDTH - indent)
        return [line for part in filled for line in _opened(part, indent)]
    sign = whole[:2] if whole[:2] in ("+ ", "- ", "* ", "/ ") else ""
    head, *inner, tail = _inside(whole[len(sign) :]) or ("", "")
    if not inner:
        return [piece]
    if head != "(":
        inner = _packed(inner, WIDTH - indent - 4)
    body = [line for part in inner for line in _opened(part, indent + 4)]
    return [f"{sign}{head}", *(f"    {line}" for line in body), f"{tail}{end}"]


def _chain(expression: str, width: int) -> list[str]:
    """`x.flip(-1).cumsum(-1)` in lines that begin with a point, as many calls on a line as fit."""
    depth, start, parts = 0, 0, []
    for at, character in enumerate(expression):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and expression[at : at + 2] == ").":
            parts.append(expression[start : at + 1])
            start = at + 1
    lines: list[str] = []
    for part in (*parts, expression[start:]):
        if lines and len(lines[-1]) + len(part) <= width:
            lines[-1] += part
        else:
            lines.append(part)
    return lines


def _inside(expression: str) -> list[str]:
    """A bracket's or a call's head, what stands in it in pieces, and its tail; [] of anything else."""
    if expression.startswith("("):
        inner = _terms(expression[1:-1])
        closed = expression.endswith(")") and _split(expression, (" ",))[0] == expression
        return ["(", *inner, ")"] if closed and len(inner) > 1 else []
    parts = _arguments(expression)
    return parts if len(parts) > 1 else []


def _filled(factors: Sequence[str], width: int) -> list[str]:
    """Factors, each but the first with its sign before it, as many on a line as fit."""
    lines = [factors[0]]
    for factor in factors[1:]:
        if len(lines[-1]) + len(factor) + 1 <= width:
            lines[-1] += f" {factor}"
        else:
            lines.append(factor)
    return lines


def wrap_names(words: Sequence[str], indent: int) -> list[str]:
    """Names in lines, each with its comma."""
    return _packed([f"{word}," for word in words], WIDTH - indent)


def prose(text: str, indent: int = 4) -> list[str]:
    """A sentence or formula in lines, later ones set in."""
    return textwrap.wrap(
        text,
        WIDTH - indent,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _packed(pieces: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for piece in pieces:
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return lines


def _split(text: str, marks: Sequence[str]) -> list[str]:
    """``text`` cut before each mark that stands outside every bracket."""
    depth, start, parts = 0, 0, []
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and at > start and any(text.startswith(mark, at) for mark in marks):
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def _terms(expression: str) -> list[str]:
    for marks in ((" + ", " - "), (" * ", " / "), (" @ ",)):
        parts = _split(expression, marks)
        if len(parts) > 1:
            return parts
    return [expression]


def _arguments(expression: str) -> list[str]:
    """``f(a, b)`` as its head, one piece per argument, and its tail."""
    at = expression.find("(")
    if at < 1 or not (expression[at - 1].isalnum() or expression[at - 1] == "_"):
        return [expression]  # a bracket that no function stands before holds no arguments
    if not expression.endswith(")") or _split(expression[at:], (" ",))[0] != expression[at:]:
        return [expression]
    depth, start, pieces = 0, at + 1, []
    for place in range(at + 1, len(expression)):
        character = expression[place]
        if depth == 0 and (character == "," or place == len(expression) - 1):
            pieces.append(expression[start:place].strip() + ",")
            start = place + 1
        depth += (character in "([{") - (character in ")]}")
    return [expression[: at + 1], *pieces, ")"]
