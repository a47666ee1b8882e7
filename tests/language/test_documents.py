"""Whatever a newcomer copies must work: the page, the starting file, the shipped specs."""

import re
from functools import partial
from importlib.resources import files

import pytest

from miras_dsl.check import read, warnings
from miras_dsl.check.layers import uses
from miras_dsl.check.library.load import standard
from miras_dsl.cli.scaffold import spec_template
from miras_dsl.source import Source

PAGE = files("miras_dsl").joinpath("LANGUAGE.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```mem\n(.*?)```", PAGE, re.DOTALL)
SPECS = sorted(p.name for p in files("miras_dsl.specs").iterdir() if p.name.endswith(".mem"))
TWELVE = [
    "delta_product", "deltanet", "gated_deltanet", "gla", "hgrn", "linear_attention",
    "logcosh_momentum", "memora", "rwkv7", "titans", "ttt_mlp", "yaad",
]  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda t: t.split("{")[0].split("\n")[-1])
def test_every_example_of_the_page_has_a_meaning_and_no_warning(text):
    spec = read(Source("LANGUAGE.md", text))

    assert spec.memories
    assert warnings(spec) == ()


MEMORIES = [
    (name, text) for text in EXAMPLES for name in re.findall(r"^memory (\w+)", text, re.MULTILINE)
]


@pytest.mark.parametrize(("name", "text"), MEMORIES, ids=[name for name, _ in MEMORIES])
def test_every_memory_of_the_page_is_what_autodiff_says(name, text):
    """Small cases at the ends of what the gates can be: a whole check takes minutes."""
    import torch

    from miras_dsl.runtime.judge.cases import Case
    from miras_dsl.runtime.judge.certificate import certify
    from miras_dsl.runtime.load.loader import implementation

    spec = read(Source("LANGUAGE.md", text)).memories[name]
    cases = (
        Case("equal keys", (11,), (5, 3), keys=1.0, gates=0.4),
        Case("two tokens, zero keys", (2,) * 2, (4, 3), warm=True, keys=None),
        Case("ends of every gate", (3,) * 2, (3, 4), gates=1.0),
    )
    certificate = certify(spec, partial(implementation, spec), dtype=torch.float64, cases=cases)

    assert certificate.green, str(certificate)


def test_the_page_names_every_function_and_every_word_of_the_library():
    from miras_dsl.check.formula.functions.complex_functions import ALL_FUNCTIONS as FUNCTIONS

    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_]*", PAGE))

    assert set(FUNCTIONS) <= words
    assert {name for _, name in standard()} <= words


@pytest.mark.parametrize("name", SPECS)
def test_a_shipped_spec_is_short_documented_and_without_warnings(name):
    text = files("miras_dsl.specs").joinpath(name).read_text(encoding="utf-8")
    spec = read(Source(name, text))

    assert warnings(spec) == ()
    assert all(m.doc for m in spec.memories.values())
    assert {use.memory for layer in spec.layers.values() for use in uses(layer.body)} == set(
        spec.memories
    )
    assert len(text.splitlines()) <= 25


def test_the_specs_that_span_the_classes_are_there():
    assert {f"{n}.mem" for n in TWELVE} <= set(SPECS)


@pytest.mark.parametrize("name", ["robust.mem", "runs/my-own_memory.mem", "7", "", "ünï.mem"])
def test_the_starting_file_can_be_checked_as_it_is(name):
    spec = read(Source("new.mem", spec_template(name)))

    assert len(spec.memories) == len(spec.layers) == len(spec.models) == 1
    assert warnings(spec) == ()
