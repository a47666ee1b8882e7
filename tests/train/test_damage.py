"""Whatever happened to the files of a run, going on with it is right or ends in a sentence."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from miras_dsl.exceptions import EnvironmentFailure
from miras_dsl.runtime.train import checkpoint, loop
from miras_dsl.runtime.train.checkpoint import CheckpointError
from miras_dsl.runtime.train.loop import LOG, train
from miras_dsl.runtime.train.metrics_log import MetricsLogError
from tests.train.damage import parts, retensor, rewrite
from tests.train.tiny import CONFIG, corpus, tiny

SHORT = dataclasses.replace(
    CONFIG, steps=4, keep=2, evaluate=2, sample=0, batch=1, length=8, windows=2
)


@pytest.fixture(scope="module", autouse=True)
def unpictured():
    """Drawing takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_picture", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def whole(unpictured, tmp_path_factory):
    """A run of four steps."""
    out = tmp_path_factory.mktemp("whole")
    train(tiny(), corpus(), SHORT, out)
    return out


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resume(out: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(tiny(seed=5), corpus(), SHORT, out, resume=True)


def test_an_undamaged_run_goes_on(run):
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    resume(run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(data=st.data(), forged=st.booleans())
@settings(max_examples=120)
def test_any_edit_of_the_metadata_is_told_or_harmless(whole, tmp_path_factory, data, forged):
    """A value put in the place of another, taken away or added, anywhere in the JSON."""
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("edit") / "run"))

    def edit(about: dict[str, Any]) -> None:
        place: Any = about
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            break
        match data.draw(st.sampled_from(["replace", "delete", "add"])):
            case "replace":
                place[key] = data.draw(JSON)
            case "delete":
                del place[key]
            case _:
                place[data.draw(st.text(max_size=5))] = data.draw(JSON)

    before = parts(out / checkpoint.NAME)[0]
    rewrite(out / checkpoint.NAME, edit, forged)
    same = parts(out / checkpoint.NAME)[0] == before
    try:
        resume(out)
    except EnvironmentFailure as sentence:
        assert str(sentence)
    else:
        assert forged or same, "an edit went unseen"


@pytest.mark.parametrize(
    "key", ["step", "digest", "spec", "config", "text", "torch", "format", "log"]
)
def test_every_entry_is_missed(run, key):
    rewrite(run / checkpoint.NAME, lambda about: about.pop(key))
    with pytest.raises(CheckpointError):
        checkpoint.facts(run / checkpoint.NAME)


@given(data=st.data())
@settings(max_examples=150)
def test_any_flipped_bit_is_told(whole, tmp_path_factory, data):
    """Of a weight, of the optimiser, of the random state, of a name or of the metadata."""
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("flip") / "run"))
    path = out / checkpoint.NAME
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header - 1) | st.integers(header, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    before = parts(whole / checkpoint.NAME)
    try:
        resume(out)
    except EnvironmentFailure:
        return
    # Only blanks around the header's JSON may change without a word.
    about, tensors = parts(path)
    assert about == before[0] and tensors.keys() == before[1].keys()


@given(cut=st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_file_that_was_cut_off_is_told(whole, tmp_path_factory, cut):
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("cut") / "run"))
    content = (out / checkpoint.NAME).read_bytes()
    (out / checkpoint.NAME).write_bytes(content[: cut % len(content)])
    with pytest.raises(CheckpointError):
        resume(out)


TENSORS = {
    "no optimiser": lambda t: [t.pop(k) for k in list(t) if k.startswith("optimiser.")],
    "half an optimiser": lambda t: t.pop("optimiser.2.exp_avg"),
    "no random state": lambda t: t.pop("random.torch"),
    "a random state of another kind": lambda t: t.update({"random.torch": torch.zeros(3)}),
    "float64 weights": lambda t: t.update({k: x.double() for k, x in t.items() if "model." in k}),
    "half weights": lambda t: t.update({k: x.half() for k, x in t.items() if "model." in k}),
    "float64 moments": lambda t: t.update({k: x.double() for k, x in t.items() if "exp_avg" in k}),
    "a weight of another shape": lambda t: t.update({"model.head.bias": torch.zeros(3)}),
    "a weight too few": lambda t: t.pop("model.head.bias"),
    "a weight too many": lambda t: t.update({"model.other": torch.zeros(3)}),
    "a stranger in the optimiser": lambda t: t.update({"optimiser.x.step": torch.zeros(())}),
    "another weight": lambda t: t["model.head.bias"].add_(1e-6),
}


@pytest.mark.parametrize("earlier", [False, True], ids=["with checksums", "format 2"])
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_are_not_those_of_the_run_are_told(run, kind, earlier):
    """Also by a file of the earlier format, as far as it can be seen there; nothing is half loaded."""
    if earlier:
        if kind == "another weight":
            pytest.skip("nothing in the earlier format tells")

        def before(about: dict[str, Any]) -> None:
            about["format"] = 2
            for key in ("sha256", "tensors", "log", "device"):
                del about[key]

        rewrite(run / checkpoint.NAME, before)
    retensor(run / checkpoint.NAME, TENSORS[kind])
    model = tiny(seed=5)
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(CheckpointError, match=r"--out|does not fit"):
        train(model, corpus(), SHORT, run, resume=True)
    for p, q in zip(model.parameters(), weights, strict=True):
        assert torch.equal(p, q)


LINES = {
    "a doubled line": lambda rows: rows.insert(1, rows[1]),
    "the last line doubled": lambda rows: rows.append(rows[-1]),
    "a line too few": lambda rows: rows.pop(1),
    "no measurements": lambda rows: rows.__setitem__(
        slice(None), [r for r in rows if "held_out" not in r]
    ),
    "two lines changed places": lambda rows: rows.insert(0, rows.pop(1)),
    "another number": lambda rows: rows[0].update(bits=1.0),
    "a number that is none": lambda rows: rows[0].update(bits="low"),
    "not finite": lambda rows: rows[0].update(bits=float("nan")),
    "a step that is none": lambda rows: rows[0].update(step="one"),
    "a step in halves": lambda rows: rows[0].update(step=1.0),
    "step true": lambda rows: rows[0].update(step=True),
    "step 0": lambda rows: rows[0].update(step=0),
    "no step": lambda rows: rows[0].pop("step"),
    "another key": lambda rows: rows[0].update(extra=1),
    "a list": lambda rows: rows.insert(0, [1, 2]),
    "a word": lambda rows: rows.insert(0, "row"),
    "no rows": lambda rows: rows.clear(),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_log_that_is_not_the_run_s_is_told(run, kind):
    rows = [json.loads(line) for line in (run / LOG).read_text().splitlines()]
    LINES[kind](rows)
    (run / LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(MetricsLogError, match="log"):
        resume(run)


@given(data=st.data())
@settings(max_examples=80)
def test_any_edit_of_a_log_is_told_or_harmless(whole, tmp_path_factory, data):
    """Bytes put in the place of others."""
    out = Path(shutil.copytree(whole, tmp_path_factory.mktemp("log") / "run"))
    content = (out / LOG).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 9)))
    put = data.draw(
        st.binary(max_size=6) | st.sampled_from([b"\n", b"1", b"[" * 2000, content[:40]])
    )
    (out / LOG).write_bytes(content[:start] + put + content[end:])
    try:
        resume(out)
    except MetricsLogError:
        return
    assert (out / LOG).read_bytes() == content, "what it holds now is what the run wrote"


@pytest.mark.skipif(os.name != "posix", reason="pipes have names")
@pytest.mark.parametrize("name", [checkpoint.NAME, LOG])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to /dev/zero"])
def test_what_is_no_file_is_told(run, name, kind):
    """Nothing waits for ever, or reads without an end."""
    (run / name).unlink()
    match kind:
        case "pipe":
            os.mkfifo(run / name)
        case "folder":
            (run / name).mkdir()
        case _:
            (run / name).symlink_to("/dev/zero")
    with pytest.raises(EnvironmentFailure, match="no regular file"):
        resume(run)
