"""The chunk form has no hidden loop over tokens: its sequential steps are counted while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from miras_dsl.check import read
from miras_dsl.codegen.model.types import POSITIONS
from miras_dsl.codegen.pipeline import CompiledMemory, compile_file
from miras_dsl.runtime import run as runner
from miras_dsl.runtime.execute.call import validate
from miras_dsl.runtime.execute.chunk_form import ChunkForm, chunk_for
from miras_dsl.runtime.execute.form import Form
from miras_dsl.runtime.execute.token_loop import TokenForm
from miras_dsl.runtime.load import cache
from miras_dsl.runtime.ops import tensor_ops
from miras_dsl.runtime.run import MemoryOp, MemoryTable, Region, ScanProgram
from miras_dsl.source import Source
from miras_dsl.spec import FileSpec, MemorySpec
from tests.meaning.derived import extents, shipped, shipped_names
from tests.shipped_specs import FAMILIES, spanning_case

HEADS = 1
BY_TOKEN = """
memory ByToken(dk, dv) {
  architecture W: matrix[value, key]
  bias         l2
  retention    soft(alpha, 0.02) at token
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        { alpha, eta = sigmoid(linear(x)) }
}
"""


def generated(name: str) -> tuple[CompiledMemory, MemoryTable]:
    """A memory through the compiler, and the table of its generated module."""
    spec = shipped()[name] if name in shipped() else of_source(name)
    rendered = compile_file(FileSpec({spec.name: spec}, {}, {}))
    module = cache.import_module(cache.put(rendered.text))
    (memory,) = (x for x in vars(module).values() if isinstance(x, MemoryTable))
    return rendered.memories[spec.name], memory


def of_source(text: str) -> MemorySpec:
    (spec,) = read(Source("test.mem", text)).memories.values()
    return spec


class Counting:
    """Counts the calls of generated functions, and the rows of substitutions."""

    def __init__(self, memory: MemoryTable, patch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        substitute = tensor_ops.substitute

        def counted(a: Tensor, p: Tensor, body: Callable[..., Tensor], *rest: Any) -> Tensor:
            return substitute(a, p, self.seen("rows", body), *rest)

        patch.setattr(tensor_ops, "substitute", counted)
        self.memory = replace(
            memory,
            token=self.part("token", memory.token),
            forward=memory.forward and self.walk("forward", memory.forward),
            backward=memory.backward and self.walk("backward", memory.backward),
        )

    def seen(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            return function(*arguments)

        return call

    def part(self, name: str, part: Region) -> Region:
        return Region(self.seen(name, part.function), " ".join(part.names))

    def walk(self, name: str, walk: ScanProgram) -> ScanProgram:
        return replace(
            walk,
            before=[self.part(f"{name} before", part) for part in walk.before],
            loop=[self.part(f"{name} loop", walk.loop[0]), *walk.loop[1:]],
            after=[self.part(f"{name} after", part) for part in walk.after],
        )


def arguments(compiled: CompiledMemory, tokens: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Feeds and a state for one call; logarithms of decays are a little below 0."""
    rule, random = compiled.rule, torch.Generator().manual_seed(0)
    sizes, pairs = extents(rule), rule.model.pairs
    feeds, state = {}, {}
    for feed in rule.inputs:
        axes = [sizes[a] for a in feed.axes if a != POSITIONS]
        lead: tuple[int, ...] = (1, tokens, HEADS)
        spec = compiled.spec
        declared = {t.name: t.axes for t in (*spec.tokens, *spec.gates)}.get(feed.of, ())
        if "pair" in declared:
            lead = (*lead, pairs)
        if feed.kind in ("constant", "position"):
            lead = (HEADS,) if feed.kind == "constant" else (HEADS, rule.block)
        x = torch.rand(*lead, *axes, generator=random) / 8
        feeds[feed.name] = (-x if feed.log else x).requires_grad_()
    for weight in rule.states:
        shape = [sizes[a] for a in weight.axes]
        state[weight.name] = 0.1 * torch.randn(1, HEADS, *shape, generator=random)
    for name in rule.model.window_inputs:
        shape = feeds[name].shape[2:]
        state[f"window.{name}"] = torch.randn(1, rule.model.window.width - 1, *shape)
    if rule.block:
        state["position"] = torch.zeros(1, dtype=torch.int64)
    return feeds, state


@pytest.mark.parametrize("tokens", [1, 40, 130])
@pytest.mark.parametrize(
    "name", [spanning_case(n, [n]) for n, f in sorted(FAMILIES.items()) if f != "token by token"]
)
def test_steps_are_those_that_the_plan_states(
    name: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, memory = generated(name)
    counting = Counting(memory, monkeypatch)
    feeds, state = arguments(compiled, tokens)
    y, _ = runner.run(MemoryOp(counting.memory), feeds, state)
    forward = dict(counting.calls)
    y.sum().backward()
    found = counting.calls
    assert found["token"] == 0
    for way, walk in (("forward", memory.forward), ("backward", memory.backward)):
        assert walk is not None
        for part, regions in (("before", walk.before), ("after", walk.after)):
            assert found[f"{way} {part}"] == len(regions), f"{way} {part}"
    here, back = compiled.depth(tokens), compiled.depth(tokens, backward=True)
    assert found["forward loop"] == here.walks and forward.get("rows", 0) == here.rows
    assert found["backward loop"] == back.walks
    assert found["rows"] == here.rows + back.rows
    size = chunk_for(memory, tokens * compiled.rule.steps_per_token)
    chunks = -(-tokens * compiled.rule.steps_per_token // size)
    steps = chunks * size if FAMILIES[name] == "substitution" else chunks
    assert compiled.sequential_depth(tokens) == steps


def test_a_rule_without_a_chunk_form_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, memory = generated(BY_TOKEN)
    counting = Counting(memory, monkeypatch)
    feeds, state = arguments(compiled, 9)
    runner.run(MemoryOp(counting.memory), feeds, state)
    assert compiled.form is None and counting.calls == {"token": 9}
    assert compiled.sequential_depth(9) == 9


class Operations(TorchDispatchMode):
    """Counts what torch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", shipped_names("form", family_is_not="substitution"))
def test_a_chunk_is_not_done_token_by_token(name: str) -> None:
    """Each further chunk costs the same few operations, a fraction of those of its tokens."""
    compiled, memory = generated(name)

    def cost(form: Form, tokens: int) -> int:
        feeds, state = arguments(compiled, tokens)
        with torch.no_grad(), Operations() as operations:
            form.compute(validate(memory, feeds, state, None), False)
        return operations.count

    one = memory.chunk // memory.steps_per_token
    two, three, four = (cost(ChunkForm(memory), n * one) for n in (2, 3, 4))
    assert 0 < three - two == four - three
    assert 4 * (four - three) < cost(TokenForm(memory), one)
