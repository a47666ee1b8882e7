"""Generated classes and modules through pickle, copy, torch.save and spawned processes."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import miras_dsl as miras
from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.load import cache, pickling
from miras_dsl.runtime.load.pickling import UnpicklingError, generated_class
from tests.project.command import GOOD

ROOT = Path(__file__).resolve().parents[2]
TEXT = f"""{GOOD}
layer Wrapped(heads = 2) = Delta with conv(4), silu, normalize(query, key), output_gate
model Small(width = 16, vocab = 32) = repeat 2 {{ Wrapped ; swiglu }}
"""
SIZES = {
    "Delta": {"width": 16, "heads": 2},
    "Wrapped": {"width": 16, "heads": 2},
    "Small": {"width": 16, "vocab": 32},
}
KINDS = sorted(SIZES)


@pytest.fixture(scope="module")
def library():
    return miras.load(miras.Source("here.mem", TEXT))


def question(name: str) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 32, (2, 5)) if name == "Small" else torch.randn(2, 5, 16)


def saved(module: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "oldest pickle": lambda module: pickle.loads(pickle.dumps(module, protocol=0)),
    "python's pickle": lambda module: pickle.loads(pickle._dumps(module)),  # type: ignore[attr-defined]
    "deepcopy": copy.deepcopy,
    "torch.save": saved,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_module_comes_back(library, name, way):
    module = library[name](**SIZES[name])
    again = WAYS[way](module)
    assert type(again) is type(module)
    assert torch.equal(again(question(name))[0], module(question(name))[0])
    again.reset_parameters()
    assert pickle.loads(pickle.dumps(library[name])) is library[name]


def test_a_library_comes_back(library):
    again = pickle.loads(pickle.dumps(library))
    assert again.digest == library.digest
    assert again.Wrapped is library.Wrapped


READER = """
import pickle, sys, torch
with open(sys.argv[1], "rb") as file:
    module, question, wanted, library = pickle.load(file)
assert torch.equal(module(question)[0], wanted)
assert type(module).__name__ in library.classes
pickle.loads(pickle.dumps(module))
print("read")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(True, marks=pytest.mark.thorough, id="same cache"),
        pytest.param(False, id="empty cache"),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_another_process_reads_it(library, name, kept, tmp_path):
    """One that has imported nothing of ours; also on a machine where the module was never made."""
    module = library[name](**SIZES[name])
    given = (module, question(name), module(question(name))[0].detach(), library)
    (tmp_path / "module.pickle").write_bytes(pickle.dumps(given))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if not kept:
        env["MIRAS_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-c", READER, str(tmp_path / "module.pickle")]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout == "read\n", done.stderr


LOADER = """
import torch
from torch.utils.data import DataLoader
import miras_dsl as miras

class Answers(torch.utils.data.Dataset):
    def __init__(self, module): self.module = module
    def __len__(self): return 3
    def __getitem__(self, index):
        with torch.no_grad():
            return self.module(torch.full((1, 4, 16), float(index)))[0]

if __name__ == "__main__":
    import sys
    from pathlib import Path
    data = Answers(miras.load(Path(sys.argv[1]).read_text()).Wrapped(width=16, heads=2))
    found = list(DataLoader(data, num_workers=1, multiprocessing_context="spawn"))
    assert all(torch.equal(found[n][0], data[n]) for n in range(3))
    print("read")
"""


@pytest.mark.slow
def test_a_spawned_worker_reads_it(tmp_path):
    (tmp_path / "loader.py").write_text(LOADER)
    (tmp_path / "text.mem").write_text(TEXT)
    command = [sys.executable, "loader.py", "text.mem"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout == "read\n", done.stderr


class Mine(torch.nn.Module):
    """A module of a user's that holds one of ours."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer


def test_what_a_user_builds_around_it_comes_back(library):
    again = pickle.loads(pickle.dumps(Mine(library.Delta(width=16, heads=2))))
    assert type(again.layer) is library.Delta


def recipe(library, name: str) -> list[Any]:
    reduced = pickling._reduced(library[name])
    assert reduced[0] is generated_class
    return list(reduced[1])


def test_only_data_is_pickled(library):
    """The text of the spec and a hash; not a line of the generated code."""
    written = pickle.dumps(library.Delta)
    assert b"algorithm    gd(eta), exact" in written
    assert b"def forward" not in written


def test_what_was_not_compiled_here_is_never_imported(library, tmp_path, monkeypatch):
    """A hash of something else, a way out of the cache, a changed entry."""
    name, text, kernels, digest, cls = recipe(library, "Delta")
    evil = "raise SystemExit('this must not run')\n"
    planted = tmp_path / cache.digest(evil)
    planted.mkdir()
    (planted / cache.FILE).write_text(evil)
    for other in (cache.digest(evil), str(planted), f"../{planted.name}", "", "0" * 63, 7):
        with pytest.raises(UnpicklingError):
            generated_class(name, text, kernels, other, cls)  # type: ignore[arg-type]
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))
    entry = cache.root() / digest
    entry.mkdir(mode=0o700)
    (entry / cache.FILE).write_text(evil)
    with pytest.warns(UserWarning, match="built again"):
        assert generated_class(name, text, kernels, digest, cls).__name__ == cls


@pytest.mark.parametrize(
    "word", ["torch", "nn", "Linear", "GeneratedModule", "delta_memory", "x", "__doc__"]
)
def test_only_classes_of_the_spec_are_given(library, word):
    name, text, kernels, digest, _ = recipe(library, "Delta")
    with pytest.raises(UnpicklingError, match="defines no class"):
        generated_class(name, text, kernels, digest, word)


def test_another_version_of_the_compiler_is_told(library, monkeypatch):
    name, text, kernels, _, cls = recipe(library, "Delta")
    with pytest.raises(EnvironmentFailure, match=r"another version of miras_dsl.*state_dict"):
        generated_class(name, text, kernels, "0" * 64, cls)


def test_a_generated_file_of_the_user_s_is_pickled_by_its_name(tmp_path, monkeypatch):
    """As `miras compile -o robust.py` writes it: a module like any other."""
    (tmp_path / "written_by_compile.py").write_text(miras.compile(TEXT).text)
    monkeypatch.syspath_prepend(tmp_path)
    import written_by_compile  # type: ignore[import-not-found]

    assert pickle.loads(pickle.dumps(written_by_compile.Delta)) is written_by_compile.Delta
    assert b"written_by_compile" in pickle.dumps(written_by_compile.Delta)


@pytest.mark.parametrize("name", KINDS)
def test_parameters_begin_again(library, name):
    """As those of a new module after the same seed; type, device and the parameters stay."""
    torch.manual_seed(3)
    wanted = library[name](**SIZES[name])
    module = library[name](**SIZES[name])
    held = list(module.parameters())
    torch.manual_seed(3)
    module.reset_parameters()
    for mine, kept, new in zip(module.parameters(), held, wanted.parameters(), strict=True):
        assert mine is kept and torch.equal(mine, new)
    for part in module.modules():
        if list(part.parameters(recurse=False)):
            assert callable(getattr(part, "reset_parameters", None)), type(part)
    with torch.device("meta"):
        empty = library[name](**SIZES[name])
    empty.to_empty(device="cpu")
    torch.manual_seed(3)
    empty.reset_parameters()
    for mine, new in zip(empty.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(mine, new)
    half = library[name](**SIZES[name]).bfloat16()
    half.reset_parameters()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", KINDS)
def test_each_part_begins_again_by_itself(library, name):
    module = library[name](**SIZES[name])
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(float("nan"))
    for part in reversed(list(module.modules())):
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    assert all(p.isfinite().all() for p in module.parameters())


def test_the_summary_lists_bare_parameters_and_counts():
    text = GOOD.replace("W: matrix[value, key]", "W: matrix[value, key] = learned").replace(
        "sigmoid(linear(x))", "sigmoid(linear(x) + param(1))"
    )
    module = miras.load(text).Delta(width=16, heads=2)
    shown = repr(module)
    own = dict(module.named_parameters(recurse=False))
    assert len(own) == 2
    for name, p in own.items():
        assert f"({name}): Parameter({' x '.join(map(str, p.shape))})" in shown
    assert f"{sum(p.numel() for p in module.parameters()):,} parameters" in shown
    assert "width=16, heads=2" in shown


def test_the_package_shows_what_it_offers():
    names = [name for name in dir(miras) if not name.startswith("__")]
    assert sorted(names) == sorted(miras.__all__)
    x = torch.ones(2, requires_grad=True) * 2
    state = miras.detach({"memory": {"W": x}})
    assert not state["memory"]["W"].requires_grad
