"""Name conflicts in one generated module: every layer of a file computes as if it were alone in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import miras_dsl as miras
from miras_dsl.check import read
from miras_dsl.codegen import pipeline
from miras_dsl.codegen.emit.namespace import FileNames, assert_defined_once, file_names, unreserved
from miras_dsl.codegen.pipeline import compile_file
from miras_dsl.runtime.judge.cases import Case
from miras_dsl.runtime.judge.certificate import certify
from miras_dsl.runtime.load import cache
from miras_dsl.runtime.load.certify_file import certify_file
from miras_dsl.runtime.load.loader import load, with_sizes
from miras_dsl.source import Source
from miras_dsl.spec import FileSpec
from tests.kernels.more_rules import EXTRA
from tests.meaning.derived import shipped

MEMORY = """
memory {name}(d) {{
  architecture W: matrix[value, key]
  bias         {bias}
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        {{ alpha = sigmoid(linear(x) + 2)   eta = sigmoid(linear(x)) / {rate} }}
}}
"""
BIASES = ("l2", "logcosh", "lp(3)")
AROUND = "layer {0}Layer(heads = 2) = {0} with conv(2), silu\n"

TOGETHER = [
    ("AB", "Ab"),
    ("ABC", "AbC", "Abc"),
    ("Foo", "FooBack"),
    ("FooStep", "Foo"),
    ("FooRefresh", "Foo", "FooKernels", "FooToken"),
    ("Tensor", "Tensor_", "tensor"),
    ("Memory", "Torch", "Nn", "State", "Chunked", "Recurrent", "Tiles", "Triton", "Tl"),
    ("memory_step", "Memory", "nn", "runner", "recurrent", "ops", "torch", "triton", "tl"),
    ("InverseSoftplus", "Initial", "Learned"),
    ("ab_memory", "ab_before", "Ab"),
    ("part", "Part", "kept", "given", "width", "self", "list", "print"),
]


def text_of(*names: str, like: tuple[str, ...] = ()) -> str:
    """Memories that all differ, each with a layer around it; ``like`` numbers them."""
    order = like or names
    return "".join(
        MEMORY.format(
            name=name,
            bias=BIASES[order.index(name) % len(BIASES)],
            rate=2 + order.index(name) // len(BIASES),
        )
        + AROUND.format(name)
        for name in names
    )


@pytest.mark.parametrize("names", TOGETHER, ids=" ".join)
def test_each_layer_answers_as_when_alone(names: tuple[str, ...]) -> None:
    together = load(text_of(*names))
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    answers = []
    for name in (*names, *(f"{name}Layer" for name in names)):
        alone = load(text_of(name.removesuffix("Layer"), like=names))[name]
        torch.manual_seed(0)
        expected = alone(width=8, heads=2).double()
        made = together[name](width=8, heads=2).double()
        made.load_state_dict(expected.state_dict())
        for found, right in ((made(x), expected(x)), (made.step(x[:, 0]), expected.step(x[:, 0]))):
            torch.testing.assert_close(found, right, rtol=0, atol=0)
        answers.append(made(x)[0])
    memories = answers[: len(names)]
    assert all(not torch.equal(a, b) for n, a in enumerate(memories) for b in memories[:n])


@pytest.mark.parametrize("names", TOGETHER, ids=" ".join)
def test_kernels_have_names_of_their_own(names: tuple[str, ...]) -> None:
    rendered = compile_file(read(Source("names.mem", text_of(*names))), kernels=True)
    assert rendered.text.count("= Recurrence(") == len(names)
    for memory in rendered.memories.values():
        assert unreserved(memory.text, memory.prefix) == set()


def test_names_that_do_not_meet_stay_as_they_are() -> None:
    names = file_names(FileSpec(shipped(), {}, {}))
    assert names.classes == {name: name for name in shipped()}
    assert names.prefixes["Yaad"] == "yaad" and names.prefixes["YaadSweeps"] == "yaad_sweeps"
    assert names.prefixes["GatedDeltaNet"] == "gated_delta_net"


def test_the_first_to_ask_for_a_name_has_it() -> None:
    names = file_names(read(Source("names.mem", text_of("Ab", "AB", "Tensor", "Tensor_"))))
    assert [names.prefix_of(n) for n in ("Ab", "AB")] == ["ab", "ab_2"]
    assert [names.class_of(n) for n in ("Tensor", "Tensor_")] == ["Tensor__", "Tensor_"]


@pytest.mark.parametrize("kernels", [False, True])
def test_all_that_a_memory_defines_is_reserved(kernels: bool) -> None:
    texts = [Source(f"{name}.mem", text) for name, text in EXTRA.items()]
    memories = [*shipped().values(), *(m for t in texts for m in read(t).memories.values())]
    for spec in memories:
        made = pipeline.compile_memory(spec, kernels)
        assert unreserved(made.text, made.prefix) == set()


def test_no_argument_hides_what_its_function_uses() -> None:
    hostile = ("recurrent", "rule_row1", "rule_kernels", "tl", "rule_memory")
    gates = "".join(f"{name} = sigmoid(linear(x))  " for name in hostile)
    text = MEMORY.format(name="Rule", bias="logcosh", rate=2).replace("alpha =", f"{gates} alpha =")
    spec = read(Source("rule.mem", text.replace("gd(eta)", f"gd({' * '.join(hostile)})")))
    rendered = compile_file(spec, kernels=True)
    module = cache.import_module(cache.put(rendered.text))
    certificate = certify(
        spec.memories["Rule"],
        partial(with_sizes, rendered.memories["Rule"], module),
        dtype=torch.float64,
        cases=(Case("warm", (9,), (3, 4), warm=True),),
    )
    assert certificate.green, str(certificate)


def test_a_name_that_is_defined_twice_is_an_error() -> None:
    assert assert_defined_once("import torch\n\ndef f(): pass\n")
    for twice in ("def f(): pass\nf = 1\n", "import f\nclass f: pass\n", "from a import f, g as f"):
        with pytest.raises(AssertionError, match="defines f more than once"):
            assert_defined_once(twice)


def clash(monkeypatch: pytest.MonkeyPatch) -> FileSpec:
    """A file whose memories are called the same, as without an allocator."""
    names = ("AB", "Ab")
    clashing = FileNames({name: name for name in names}, dict.fromkeys(names, "ab"))
    monkeypatch.setattr(pipeline, "file_names", lambda spec: clashing)
    return read(Source("clash.mem", text_of(*names)))


def test_a_module_whose_memories_clash_is_not_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = clash(monkeypatch)
    with pytest.raises(AssertionError, match=r"_ab, _ab_op, ab_answer, .* more than once"):
        compile_file(spec)


def test_a_certificate_judges_what_load_imports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))
    spec = clash(monkeypatch)
    monkeypatch.setattr(pipeline, "assert_defined_once", lambda text: text)
    found = certify_file(spec)
    assert not found["AB"].green and found["Ab"].green
    monkeypatch.undo()
    assert all(proof.green for proof in certify_file(spec, only=["AB"]).values())
    assert miras.certify(text_of("AB", "Ab"), only=["Ab"])["Ab"].green
