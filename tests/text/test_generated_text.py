"""The text of all shipped modules: its length, its names, and that nothing in it is there twice."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.resources import files

import pytest

from miras_dsl.check import read
from miras_dsl.codegen.emit.torch.shared_parts import Assignment, Body, share_parts
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.source import Source
from tests.shipped_specs import by_file

SPECS = sorted(p.name for p in files("miras_dsl.specs").iterdir() if p.name.endswith(".mem"))
LONGEST_LINE = 100


@cache
def text_of(spec: str) -> str:
    """The generated module of a shipped spec, with its kernels."""
    source = Source(spec, (files("miras_dsl.specs") / spec).read_text())
    return compile_file(read(source), kernels=True).text


def functions(text: str) -> list[ast.FunctionDef]:
    """The functions of a module, those of classes too."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]


def assigned(text: str) -> list[tuple[str, frozenset[str]]]:
    """Each name that a function of a memory assigns, with the names that the spec gave."""
    spec = set(re.findall(r'MemoryInput\("(\w+)"', text))
    spec |= set(re.findall(r'StateTensor\("[\w.]+", "(\w+)"', text))
    kernels = r"(?:i|o|m)_"
    found = []
    for node in ast.parse(text).body:
        for inner in ast.walk(node) if isinstance(node, ast.FunctionDef) else ():
            stored = isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)
            if isinstance(inner, ast.Name) and stored and not re.match(kernels, inner.id):
                found.append((inner.id, frozenset(spec)))
    return found


def test_lengths() -> None:
    assert len(text_of("yaad.mem").splitlines()) <= 1500
    gated = text_of("gated_deltanet.mem")
    torch = gated[gated.index("# GatedDeltaNet, gated_deltanet.mem:") : gated.index("\nclass ")]
    assert len(torch.splitlines()) <= 220


@pytest.mark.parametrize("spec", by_file(".mem"))
def test_no_function_has_the_body_of_another(spec: str) -> None:
    """But for names: a function for another class or memory may be the same in other words only where
    it is one statement."""
    seen: dict[str, str] = {}
    for function in functions(text_of(spec)):
        body = [s for s in function.body if not (isinstance(s, ast.Expr))]
        if len(body) < 3 or function.name in ("__init__", "feeds", "constants", "step", "forward"):
            continue
        text = "\n".join(map(ast.unparse, body))
        assert text not in seen, f"{function.name} is {seen[text]} again"
        seen[text] = function.name


@pytest.mark.parametrize("spec", by_file(".mem"))
def test_no_function_computes_a_thing_twice(spec: str) -> None:
    for function in functions(text_of(spec)):
        seen: dict[str, str] = {}
        for made in function.body:
            if not (isinstance(made, ast.Assign) and isinstance(made.targets[0], ast.Name)):
                continue
            text = ast.unparse(made.value)
            if function.name == "forward" or isinstance(made.value, ast.Name | ast.Constant):
                continue
            assert text not in seen, f"{function.name}: {made.targets[0].id} is {seen[text]}"
            seen[text] = made.targets[0].id


def test_names_are_of_the_derivation() -> None:
    """At most 15 % end in a number that the spec did not give, and none is longer than 30."""
    numbered, count = [], 0
    for spec in SPECS:
        for name, given in assigned(text_of(spec)):
            count += 1
            assert len(name) <= 30, name
            own = any(name in (word, f"d_{word}") for word in given)
            if re.search(r"\d$", name) and not own:
                numbered.append(name)
    assert count > 1000
    assert len(numbered) <= 0.15 * count, (len(numbered), count)


@pytest.mark.parametrize("spec", by_file(".mem"))
def test_lines_are_short(spec: str) -> None:
    assert [line for line in text_of(spec).splitlines() if len(line) > LONGEST_LINE] == []


def body(params: str, lines: str, returns: str) -> Body:
    """A body from text: `a = x + y` a line."""
    made = [line.strip().split(" = ") for line in lines.splitlines() if line]
    statements = tuple(Assignment((name,), expression, "[i]") for name, expression in made)
    return Body(tuple(params.split()), statements, tuple(returns.split()))


RUN = """
    m{0} = x{0} - x{0}.mean((-1,))[..., :, None]
    p{0} = ops.rsqrt((m{0} * m{0}).mean((-1,)) + 1e-06)
    n{0} = m{0} * p{0}[..., :, None]
    e{0} = n{0} * weight[..., None, :] - value
    t{0} = torch.tanh(10.0 * e{0})
    g{0} = weight[..., None, :] * t{0}
    h{0} = g{0} * g{0} + m{0}
    k{0} = h{0} @ weight
"""


def test_a_run_that_stands_in_four_places_becomes_a_function() -> None:
    """Also where a statement of something else stands in one of them; what one place needs, all give."""
    first = RUN.format("1").replace("    t1 =", "    z = weight + value\n    t1 =")
    lines = first + "".join(RUN.format(n) for n in "234")
    given = body("x1 x2 x3 x4 weight value", lines + "\n    w = z * k3", "k1 k2 p2 k4 w")
    (made,), (part,) = share_parts([given], "rule")
    assert part.places == 4 and part.body.returns == ("p1", "k1")
    assert part.body.params == ("x1", "weight", "value")
    calls = [s for s in made.statements if s.expression.startswith(f"{part.name}(")]
    assert sorted((c.targets, c.expression) for c in calls) == [
        (("_", "k1"), "_rule_part1(x1, weight, value, size)"),
        (("_", "k3"), "_rule_part1(x3, weight, value, size)"),
        (("_", "k4"), "_rule_part1(x4, weight, value, size)"),
        (("p2", "k2"), "_rule_part1(x2, weight, value, size)"),
    ]
    assert [s.targets for s in made.statements if s not in calls] == [("z",), ("w",)]


def test_a_run_that_reads_another_value_is_another_one() -> None:
    """One value twice in one place and two values in the other: no renaming makes them the same."""
    other = RUN.format("2").replace("(m2 * m2)", "(m2 * x2)").replace("g2 * g2", "g2 * e2")
    lines = RUN.format("1") + other + RUN.format("3") + RUN.format("4") + RUN.format("5")
    given = body("x1 x2 x3 x4 x5 weight value", lines, "k1 k2 k3 k4 k5")
    (made,), (part,) = share_parts([given], "rule")
    assert part.places == 4
    assert [s for s in given.statements if s.targets[0].endswith("2")] == [
        s for s in made.statements if s.targets[-1].endswith("2")
    ]


def test_bodies_without_repeats_are_left_as_they_are() -> None:
    given = body("x1 weight value", RUN.format("1"), "k1 p1")
    assert share_parts([given], "rule") == ([given], [])
