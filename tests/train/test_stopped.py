"""`miras train` and `miras check`, killed or interrupted, as processes of their own."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from miras_dsl.runtime.train import checkpoint, metrics_log
from tests.train.warm import Warm

KILLED = ["gated_deltanet", "yaad"]
STEPS, KEEP = 200, 5
SMALL = f"--steps {STEPS} --keep {KEEP} --width 16 --layers 1 --batch 2 --length 16".split()

# A shell that starts us in the background may have switched Ctrl-C off for its children.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from miras_dsl.cli.app import main
main()
"""


@pytest.fixture
def text(tmp_path):
    """A small text file of random words."""
    path, rng = tmp_path / "text.txt", random.Random(0)
    words = ["the", "memory", "remembers", "what", "it", "was", "told", "once"]
    path.write_text(" ".join(rng.choice(words) for _ in range(2000)))
    return path


def miras(*words: object, stderr: int | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        text=True,
        stderr=stderr,
    )


def logged(out: Path) -> int:
    """The last step that the log holds."""
    log = out / "log.jsonl"
    return log.read_text().count('"norm"') if log.exists() else 0


def wait_for_step(out: Path, goal: int) -> None:
    """Until the log is there; a run that stands still fails the test."""
    deadline = time.monotonic() + 200
    while logged(out) < goal:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def fingerprint(out: Path) -> tuple[str, str]:
    """Hashes of the weights (with the optimiser and the random state) and of the log."""
    kept, log = (out / checkpoint.NAME).read_bytes(), (out / "log.jsonl").read_bytes()
    return hashlib.sha256(kept).hexdigest(), hashlib.sha256(log).hexdigest()


@pytest.fixture(scope="module")
def warm():
    """A process that runs commands without the wait for imports."""
    process = Warm(*KILLED)
    yield process
    process.close()


@pytest.mark.slow
@pytest.mark.parametrize("spec", [KILLED[0], pytest.param(KILLED[1], marks=pytest.mark.thorough)])
def test_killed_three_times_and_resumed(tmp_path, text, warm, spec):
    """SIGKILL at three random steps; the end is the end of a run that nobody touched."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    begin = ["train", spec, "--text", text, *SMALL, "-o"]
    resume = ["train", spec, "--resume", "-o"]
    warm.start(*begin, straight)
    assert warm.ended() == 0
    seed = random.randrange(10**6)
    print("seed", seed)
    chance, last = random.Random(seed), 0
    for command in (begin, resume, resume):
        process = warm.start(*command, broken)
        # Beyond everything logged so far: only the new process can get there.
        wait_for_step(broken, last + chance.randint(1, 3 * KEEP))
        time.sleep(chance.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        assert warm.ended() == -signal.SIGKILL, "it was to be killed long before its end"
        last = logged(broken)
    assert last < STEPS
    warm.start(*resume, broken)
    assert warm.ended() == 0
    assert fingerprint(broken) == fingerprint(straight)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path, text):
    """One sentence, status 130, a whole checkpoint; and what the sentence says to do works."""
    out = tmp_path / "run"
    process = miras(
        "train", "linear_attention", "--text", text, *SMALL, "-o", out, stderr=subprocess.PIPE
    )
    wait_for_step(out, KEEP + 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    assert said.count("\n") == 1
    kept = checkpoint.facts(out / checkpoint.NAME)
    assert KEEP <= kept.step < STEPS
    assert f"{checkpoint.NAME} holds step {kept.step} of {STEPS}: go on with --resume" in said
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint.safetensors", "log.jsonl"]

    assert miras("train", "linear_attention", "--resume", "-o", out).wait() == 0
    steps = [step for step, _ in metrics_log.series(metrics_log.read(out / "log.jsonl"), "bits")]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_ctrl_c_during_a_check(tmp_path, monkeypatch):
    """A sentence and status 130, and no certificate is written."""
    monkeypatch.setenv("MIRAS_CACHE_DIR", str(tmp_path / "cache"))
    process = miras("check", "yaad", "-o", tmp_path / "yaad.json", stderr=subprocess.PIPE)
    # Once the generated module is there, the judge is at work for seconds.
    while process.poll() is None and not list(tmp_path.glob("cache/*/generated.py")):
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    # On a slow machine what is being checked has been told before.
    *told, last = said.splitlines()
    assert last == "stopped before the end; start again when you like"
    assert told in ([], ["checking yaad.mem …"])
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
