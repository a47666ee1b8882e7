"""Hostile files are data: each is accepted or refused with a code, in little time, and runs nothing."""

import re
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib.resources import files
from random import Random

import pytest

from miras_dsl.check import read, warnings
from miras_dsl.diagnostics import SpecErrors
from miras_dsl.source import Source


def memory(head="M(d)", extra="", **clauses):
    base = {
        "architecture": "W: matrix[value, key]", "bias": "l2", "retention": "decay alpha",
        "algorithm": "gd(eta), exact", "order": "predict, decay, write, read",
        "gates": "{ alpha, eta = sigmoid(linear(x)) }",
    }  # fmt: skip
    lines = "\n".join(f"  {w} {t}" for w, t in {**base, **clauses}.items())
    return f"memory {head} {{\n{lines}\n}}\n{extra}"


def gates(text):
    return memory(gates="{ alpha, eta = sigmoid(linear(x)) " + text + " }")


MODEL = "layer L = M\nmodel T(width = 8, vocab = 8) = "
CHAIN = " ".join(f"g{i} = g{i - 1}" for i in range(1, 1600))
SQUARED = "{ W: matrix[value, key]  M(x) = " + " * ".join(["(W @ x)"] * 20) + " }"
HOSTILE = {
    # nesting
    "deep brackets": gates("g = " + "(" * 5000 + "1" + ")" * 5000),
    "deep brackets open": gates("g = " + "(" * 5000),
    "deep calls": gates("g = " + "exp(" * 500 + "x" + ")" * 500),
    "deep minus": gates("g = " + "-" * 5000 + "1"),
    "deep not": gates("g = " + "not " * 5000 + "1"),
    "deep powers": gates("g = " + "^".join(["2"] * 5000)),
    "long sums": gates("g = " + "+".join(["1"] * 4000)),
    "long products": gates("g = " + "*".join(["alpha"] * 4000)),
    "long conditions": gates("g = " + " and ".join(["1"] * 4000)),
    "deep repeats": memory(extra=MODEL + "repeat 2 { " * 70 + "L" + " }" * 70),
    "deep mixing": memory(extra="layer L = " + "(" * 70 + "M" + ")" * 70),
    "long mixing": memory(extra="layer L = " + " -> ".join(["M"] * 3000)),
    "braces": "memory M(d) " + "{" * 3000,
    # size
    "large file": "#" * (1 << 20) + "\n" + memory(),
    "large comment of wide characters": "# " + "ü" * (1 << 18) + "\n" + memory(),
    "a million spaces": " " * 1_000_000 + memory(),
    "many definitions": "\n".join(f"bias b{i}(r) = sum(r)" for i in range(1200)),
    "many gates": gates(" ".join(f"g{i} = 1" for i in range(6000))),
    "a chain of gates": gates("g0 = 1 " + CHAIN),
    "a circle of gates": gates("g0 = g1599 " + CHAIN),
    "many arguments": memory(bias="huber(" + ", ".join(["1"] * 4000) + ")"),
    "many blocks": memory(extra=MODEL + " ; ".join(["L"] * 4000)),
    "nested repeats": memory(
        extra=MODEL + "repeat 1000 { repeat 1000 { repeat 1000 { L } } }"
    ),
    # blow-up
    "M of M of M": memory(architecture=SQUARED, bias="sum(" + "M(" * 50 + "key" + ")" * 50 + ")"),
    "a definition that copies": memory(
        bias="own(" + "+".join(["norm(r)"] * 50) + ")",
        extra="bias own(r, s) = " + "+".join(["s"] * 60),
    ),
    "errors of errors": memory(architecture=SQUARED, bias="sum(" + " * ".join(["r"] * 60) + ")"),
    # numbers
    "long integer": gates("g = " + "9" * 5000),
    "long fraction": gates("g = 0." + "9" * 5000),
    "large power of ten": gates("g = 1e999999999"),
    "small power of ten": gates("g = 1e-999999999"),
    "long power of ten": gates("g = 1e" + "9" * 5000),
    "tower of powers": gates("g = (((((9^16)^16)^16)^16)^16)"),
    "power of a power": gates("g = 2^(16^16)"),
    "product of large numbers": gates("g = " + "*".join(["9999999999999999999"] * 60)),
    "zero to a negative power": gates("g = 0^-1"),
    "division by a difference": gates("g = 1 / (1 - 1)"),
    "root of a negative": gates("g = (-8)^(1 / 3)"),
    "a huge size": memory(architecture="mlp(hidden = 999999999999999999)"),
    "a negative size": memory(architecture="mlp(hidden = d * -1 / 0)"),
    "a size over zero": memory(architecture="mlp(hidden = 1 / (d - d))"),
    "a huge depth": memory(architecture="mlp(hidden = d, depth = 1000000)"),
    "a huge block": memory(algorithm="gd(eta), anchored(1000000000)"),
    # names
    "a long name": gates("a" * 100_000 + " = 1"),
    "a Python word": gates("lambda = 1"),
    "a dunder": gates("__import__ = 1"),
    "a call of Python": gates('g = __import__(os)'),
    "an attribute": gates("g = x.__class__"),
    "a string": gates('g = "text"'),
    "a template": gates("g = {{ 7 * 7 }}"),
    "a name of a name": gates("g = g"),
    # characters
    "no text": "",
    "only spaces": " \n\t ",
    "a null": memory().replace("sigmoid", "sig\0moid"),
    "a byte order mark": "\ufeff" + memory(),
    "letters that look alike": gates("\u0430lpha = 1"),
    "text from right to left": gates("g = 1 \u202e"),
    "half a surrogate": "# \ud800\n" + memory(),
    "backslashes": gates("g = 1 \\ 2"),
    "a lone sign": "=",
    "closing only": ")" * 3000,
    "mixed brackets": "memory M(d) { gates { a = (1] } ) " * 100,
    "control characters in a comment": "# \x1b[31m red \x07\n" + memory(),
}  # fmt: skip
FINE = {
    "large comment of wide characters", "a million spaces", "many definitions", "a chain of gates",
    "control characters in a comment", "half a surrogate",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def warm():
    read(Source("warm.mem", memory()))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_a_coded_diagnostic_soon(name):
    start = time.process_time()
    found = ()
    try:
        warnings(read(Source("hostile.mem", HOSTILE[name])))
    except SpecErrors as errors:
        found = errors.diagnostics
        assert str(errors) and errors.to_json()
    seconds = time.process_time() - start

    assert seconds < 2
    assert bool(found) != (name in FINE)
    assert all(d.code.startswith("M0") for d in found)
    assert all(len(line) < 400 for d in found for line in str(d).split("\n"))


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 40


def test_reading_runs_nothing_and_writes_nothing():
    watched = ("compile", "exec", "open", "socket", "subprocess", "os.system", "os.exec", "import")
    seen: list[str] = []
    active = True

    def hook(event, arguments):
        if active and event.startswith(watched):
            seen.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)
    for text in (memory(), *HOSTILE.values()):
        with suppress(SpecErrors):
            read(Source("hostile.mem", text))
    active = False

    assert seen == []


def test_documentation_has_no_control_characters():
    spec = read(Source("doc.mem", HOSTILE["control characters in a comment"]))
    assert spec.memories["M"].doc.isprintable()


@pytest.mark.parametrize("seed", range(6))
def test_a_spec_with_typing_mistakes_never_crashes_the_checker(seed):
    """Words of shipped specs are dropped, doubled and swapped; whatever comes out is text."""
    random = Random(seed)
    pages = [p for p in files("miras_dsl.specs").iterdir() if p.name.endswith(".mem")]
    texts = [re.findall(r"\w+|\s+|.", p.read_text(encoding="utf-8"), re.DOTALL) for p in pages]
    words = [w for t in texts for w in t if not w.isspace()]
    outcomes = Counter()

    for _ in range(100):
        text = list(random.choice(texts))
        for _ in range(random.choice((1, 1, 2, 4))):
            place = random.randrange(len(text))
            text[place] = random.choice(
                ("", " ".join((text[place], text[place])), random.choice(words))
            )
        try:
            warnings(read(Source("mutated.mem", "".join(text))))
            outcomes["meaning"] += 1
        except SpecErrors as errors:
            assert str(errors) and errors.to_json()
            outcomes["diagnostic"] += 1

    assert min(outcomes["meaning"], outcomes["diagnostic"]) > 0
