"""Many Python threads compile and load at once, and none sees the half-done work of another."""

from __future__ import annotations

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import miras_dsl as miras
from miras_dsl.codegen.emit.namespace import top_level
from miras_dsl.runtime.threads import on_threads

SPEC = """
memory {name}(d) {{
  architecture W: matrix[value, key]
  bias         l2
  retention    l2(alpha)
  algorithm    gd(eta), exact
  order        decay, predict, write, read
  gates        {{ alpha = sigmoid(linear(x) + 4)   eta = sigmoid(linear(x)) }}
}}
"""


@pytest.fixture
def switching():
    """Python changes threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Nothing has been compiled before."""
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))


def test_the_names_of_a_module_are_read_in_many_threads(switching):
    """What failed: a tree of Python's own parser, built in two threads at once."""
    text = "import a, b.c as d\nfrom e import f as g\n"
    text += "".join(
        f"def f{n}(x):\n    y = [x, {n}]\n    return y\nK{n} = f{n}\n" for n in range(300)
    )
    wanted = ["a", "d", "g", *(name for n in range(300) for name in (f"f{n}", f"K{n}"))]
    # Python changes threads inside its own parser when it collects garbage there.
    threshold = gc.get_threshold()
    gc.callbacks.append(pause := lambda *_: time.sleep(0))
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(top_level, [text] * 24))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(pause)
    assert all(names == wanted for names in found)


@pytest.mark.slow
@pytest.mark.parametrize("count", [24, pytest.param(160, marks=pytest.mark.thorough)])
def test_compiling_in_many_threads(switching, count):
    """Compilations in 12 threads: each is what it is alone."""
    texts = [SPEC.format(name=f"Memory{n % 12}") for n in range(count)]
    with ThreadPoolExecutor(12) as pool:
        made = list(pool.map(lambda text: miras.compile(text).text, texts))
    alone = [miras.compile(text).text for text in texts[:12]]
    assert made == [alone[n % 12] for n in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [32, pytest.param(200, marks=pytest.mark.thorough)])
def test_loading_in_many_threads(switching, own_cache, count):
    """Loads in 16 threads, each used at once."""

    def answer(n: int) -> torch.Size:
        name = f"Loaded{n % 20}"
        made = miras.load(SPEC.format(name=name))[name](width=16, heads=2)
        return made(torch.zeros(1, 3, 16))[0].shape

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(answer, range(count))) == {torch.Size([1, 3, 16])}


def test_the_number_of_threads_comes_back_whoever_leaves_first():
    """Two Python threads overlap in `on_threads`; a third that starts later has the old count."""
    inside, left = threading.Event(), threading.Event()
    seen: list[int] = []

    def first() -> None:
        with on_threads(1):
            inside.wait(10)
        left.set()

    def second() -> None:
        with on_threads(1):
            inside.set()
            left.wait(10)

    with on_threads(2):
        pass
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for pair in ((first, second), (second, first)):
            inside.clear()
            left.clear()
            threads = [threading.Thread(target=part) for part in pair]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            late = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            late.start()
            late.join()
            assert torch.get_num_threads() == 2
        assert seen == [2, 2]
    finally:
        torch.set_num_threads(before)


def test_counts_nest():
    before = torch.get_num_threads()
    with on_threads(2):
        with on_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
