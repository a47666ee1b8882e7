"""Runs of statements that stand in several places, but for their names, as functions of their own.

A rule that goes over its tokens three times has the gradient of its loss three times, and the
derivative of that.  Each is printed once, as a function of what differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate, islice

from miras_dsl.codegen.emit.line_wrap import WIDTH, statement, wrap_names

NAME = re.compile(r"(?<![\w.\"])[A-Za-z_]\w*")
ANY_NAME = "name_like_this"
LEAST_SAVED = 4
"""Lines of text that a function of its own must save."""
FRAME = 6
"""Lines of such a function, and of a call, beside its statements: at least."""
MOST_NAMES = 14
"""Values that such a function reads or returns at most."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """`targets = expression  # comment  place`; a call of a shared function may have several targets.

    place  where in the spec it comes from; worth no line of its own
    """

    targets: tuple[str, ...]
    expression: str
    comment: str
    place: str = ""

    def lines(self) -> list[str]:
        """The statement, in as many lines as it needs."""
        if len(self.targets) == 1:
            bare = statement(self.targets[0], self.expression, self.comment)
            if not self.place:
                return bare
            whole = statement(self.targets[0], self.expression, f"{self.comment}  {self.place}")
            return whole if len(whole) == len(bare) else bare
        line = f"{', '.join(self.targets)} = {self.expression}"
        if len(line) + 4 <= WIDTH:
            return [line]
        head, _, given = self.expression.partition("(")
        targets = wrap_names(self.targets, 8)
        arguments = wrap_names(given[:-1].split(", "), 8)
        left = f"{', '.join(self.targets)} = {head}("
        if len(left) + 4 <= WIDTH:
            return [left, *(f"    {piece}" for piece in arguments), ")"]
        opened = ["(", *(f"    {piece}" for piece in targets), f") = {head}("]
        return [*opened, *(f"    {piece}" for piece in arguments), ")"]


@dataclass(frozen=True, slots=True)
class Body:
    """The statements of a function, with its parameters and the names of what it returns."""

    params: tuple[str, ...]
    statements: tuple[Assignment, ...]
    returns: tuple[str, ...]

    @property
    def own(self) -> frozenset[str]:
        """The names of its values."""
        return frozenset((*self.params, *(t for s in self.statements for t in s.targets)))


@dataclass(frozen=True, slots=True)
class SharedPart:
    """A run of statements as a function.  No name of a user begins with `_`, so none can hide it."""

    name: str
    body: Body
    places: int


def share_parts(bodies: Sequence[Body], prefix: str) -> tuple[list[Body], list[SharedPart]]:
    """Bodies with their common runs called, and these as functions; what saves most is shared first.

    A body that calls one has its statements as late as they can be, so that what belongs together
    stands together.
    """
    found: list[SharedPart] = []
    given, late = list(bodies), [_as_late_as_possible(body) for body in bodies]
    while best := _best(late):
        name = f"_{prefix}_part{len(found) + 1}"
        body = Body(best.params[0], tuple(best.runs[0]), best.returns)
        found.append(SharedPart(name, body, len(best.places)))
        # The last place first, so that the statements before it keep their numbers.
        for n, (at, start) in sorted(enumerate(best.places), key=lambda found: -found[1][1]):
            call = Assignment(
                best.results[n], f"{name}({', '.join((*best.params[n], 'size'))})", ""
            )
            old = late[at].statements
            new = (*old[:start], call, *old[start + len(best.runs[n]) :])
            given[at] = late[at] = replace(late[at], statements=new)
    return given, found


def _as_late_as_possible(body: Body) -> Body:
    """A body with each statement that is read just before its first reader."""
    order: list[tuple[Assignment, frozenset[str]]] = []
    for made in reversed(body.statements):
        readers = (at for at, (_, read) in enumerate(order) if not read.isdisjoint(made.targets))
        order.insert(next(readers, 0), (made, frozenset(NAME.findall(made.expression))))
    return replace(body, statements=tuple(made for made, _ in order))


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of statements in several places: what each reads and what is needed of each.

    places   (body, first statement)
    returns  what the function returns, by the names of the first place
    results  the same by each place's own names, `_` where it is not needed
    """

    places: tuple[tuple[int, int], ...]
    runs: tuple[tuple[Assignment, ...], ...]
    params: tuple[tuple[str, ...], ...]
    returns: tuple[str, ...]
    results: tuple[tuple[str, ...], ...]


@cache
def _frame(params: int, returns: int) -> tuple[int, int]:
    """Lines of a function beside its statements, and of a call of it."""
    given, made = (ANY_NAME,) * params, (ANY_NAME,) * returns
    call = Assignment(made, f"{ANY_NAME}({', '.join((*given, 'size'))})", "")
    return 5 + len(wrap_names(given, 4)) + len(wrap_names(made, 8)), len(call.lines())


def _saved(lines: int, places: int, params: int, returns: int) -> int:
    """Lines of text that a function for a run of so many lines saves."""
    frame, call = _frame(params, returns)
    return lines * (places - 1) - call * places - frame


class _Bodies:
    """Bodies with what the search asks again and again."""

    def __init__(self, bodies: Sequence[Body]) -> None:
        self.bodies = bodies
        self.shapes = [[_shape(made, body.own) for made in body.statements] for body in bodies]
        self.last_read = [_last_reads(body) for body in bodies]
        self.heights = [[_height(made, body.own) for made in body.statements] for body in bodies]

    def lines_of_each(self, place: tuple[int, int], length: int) -> list[int]:
        """Lines of text of the run of each length, from 0 on."""
        at, start = place
        return [0, *accumulate(self.heights[at][start : start + length])]

    def repeats(
        self, repeated: Sequence[Sequence[tuple[int, int]]]
    ) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Runs that stand in several places: their length and these, which do not overlap.

        repeated  places whose statements are the same but for their names
        """
        for places in repeated:
            same = {(a, b): self.common(a, b) for a in places for b in places if a < b}
            for lead in places[:-1]:
                for length in {n for pair, n in same.items() if lead in pair and n > 1}:
                    clear = [lead]
                    for place in places:
                        pair = (min(lead, place), max(lead, place))
                        apart = all(
                            p[0] != place[0] or abs(p[1] - place[1]) >= length for p in clear
                        )
                        if apart and same[pair] >= length:
                            clear.append(place)
                    if len(clear) > 1:
                        yield length, clear

    def common(self, a: tuple[int, int], b: tuple[int, int]) -> int:
        """How many statements from two places on are the same but for their names."""
        one, two = self.shapes[a[0]], self.shapes[b[0]]
        limit = min(len(one) - a[1], len(two) - b[1])
        limit = min(limit, abs(b[1] - a[1])) if a[0] == b[0] else limit
        there: dict[str, str] = {}
        back: dict[str, str] = {}
        for at in range(limit):
            left, right = one[a[1] + at], two[b[1] + at]
            if left[0] != right[0]:
                return at
            for x, y in zip(left[1], right[1], strict=True):
                if there.setdefault(x, y) != y or back.setdefault(y, x) != x:
                    return at
        return limit

    def params_of_each(self, place: tuple[int, int], length: int) -> list[int]:
        """How many values the run of each length, from 0 on, reads from outside."""
        at, start = place
        params: set[str] = set()
        own: set[str] = set()
        counts = [0]
        run = zip(self.bodies[at].statements, self.shapes[at], strict=True)
        for made, (_, names) in islice(run, start, start + length):
            own.update(made.targets)
            params.update(name for name in names if name not in own)
            params.difference_update(made.targets)
            counts.append(len(params))
        return counts

    def returns_of_each(self, places: Sequence[tuple[int, int]], length: int) -> list[int]:
        """How many values of the run of each length, from 0 on, are read behind it in some place."""
        steps = [self.bodies[at].statements[start : start + length] for at, start in places]
        counts = [0] * (length + 2)
        for n, same in enumerate(zip(*steps, strict=True)):
            for names in zip(*(made.targets for made in same), strict=True):
                end = max(
                    self.last_read[at].get(name, -1) - start
                    for name, (at, start) in zip(names, places, strict=True)
                )
                if end > n:
                    counts[n + 1] += 1
                    counts[min(end, length) + 1] -= 1
        return list(accumulate(counts))[: length + 1]

    def run(self, places: Sequence[tuple[int, int]], length: int) -> _Run:
        """What a function for a run would read and return."""
        runs = [self.bodies[at].statements[start : start + length] for at, start in places]
        targets = [[t for made in run for t in made.targets] for run in runs]
        params = []
        for (at, start), own in zip(places, targets, strict=True):
            inside = frozenset(own)
            read = [name for _, names in self.shapes[at][start : start + length] for name in names]
            params.append(tuple(dict.fromkeys(name for name in read if name not in inside)))
        ends = [(self.last_read[at], start + length) for at, start in places]
        needed = [
            n
            for n in range(len(targets[0]))
            if any(
                last.get(own[n], -1) >= end for own, (last, end) in zip(targets, ends, strict=True)
            )
        ]
        results = [
            tuple(own[n] if last.get(own[n], -1) >= end else "_" for n in needed)
            for own, (last, end) in zip(targets, ends, strict=True)
        ]
        returns = tuple(targets[0][n] for n in needed)
        return _Run(tuple(places), tuple(runs), tuple(params), returns, tuple(results))


def _best(given: Sequence[Body]) -> _Run | None:
    """The run whose function saves most lines."""
    bodies = _Bodies(given)
    starts: dict[object, list[tuple[int, int]]] = {}
    for at, shapes in enumerate(bodies.shapes):
        for start, (shape, _) in enumerate(shapes):
            starts.setdefault(shape, []).append((at, start))
    repeated = [places for places in starts.values() if len(places) > 1]
    best, most = None, LEAST_SAVED - 1
    found = list(bodies.repeats(repeated))
    found.sort(key=lambda run: -bodies.lines_of_each(run[1][0], run[0])[-1] * (len(run[1]) - 1))
    for length, places in found:
        lines = bodies.lines_of_each(places[0], length)
        if lines[length] * (len(places) - 1) - FRAME <= most:
            break
        params = bodies.params_of_each(places[0], length)
        returns = bodies.returns_of_each(places, length)
        for shorter in range(length, 1, -1):
            if lines[shorter] * (len(places) - 1) - FRAME <= most:
                break
            if not 0 < returns[shorter] <= MOST_NAMES or params[shorter] > MOST_NAMES:
                continue
            saved = _saved(lines[shorter], len(places), params[shorter], returns[shorter])
            if saved > most:
                best, most = (places, shorter), saved
    return best and bodies.run(*best)


def _shape(made: Assignment, own: frozenset[str]) -> tuple[object, tuple[str, ...]]:
    """A statement without the names of values, and these in order."""
    names = [name for name in NAME.findall(made.expression) if name in own]
    text = NAME.sub(lambda match: "_" if match[0] in own else match[0], made.expression)
    return (text, len(made.targets), made.comment, made.place), (*names, *made.targets)


def _height(made: Assignment, own: frozenset[str]) -> int:
    """Lines of a statement when every name has as many letters: what is shared must not depend on
    what a user calls things."""
    text = NAME.sub(lambda match: ANY_NAME if match[0] in own else match[0], made.expression)
    return len(Assignment((ANY_NAME,) * len(made.targets), text, made.comment, made.place).lines())


def _last_reads(body: Body) -> dict[str, int]:
    """The last statement that reads each value; what is returned is read after all of them."""
    found = {
        name: at
        for at, made in enumerate(body.statements)
        for name in NAME.findall(made.expression)
    }
    return found | dict.fromkeys(body.returns, len(body.statements))
