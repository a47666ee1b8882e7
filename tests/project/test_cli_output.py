"""Where `-o` writes: no other file is overwritten or lost."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from miras_dsl.cli.output_file import resolve_output
from miras_dsl.exceptions import EnvironmentFailure, UsageError
from tests.project.command import GOOD, files, process


@pytest.mark.parametrize("name", ["good.mem", "./good.mem", "link.mem", "second-name.mem"])
@pytest.mark.parametrize("words", [["check"], ["compile"], ["compile", "--force"]])
def test_the_spec_is_never_written_to(miras, tmp_path, name, words):
    """By no name and with no option."""
    (tmp_path / "link.mem").symlink_to("good.mem")
    os.link(tmp_path / "good.mem", tmp_path / "second-name.mem")
    shown = miras(*words, "good.mem", "-o", name)
    assert shown.exit_code == 2
    assert "is the spec itself; choose another name" in shown.output
    assert (tmp_path / "good.mem").read_text() == GOOD


def test_compile_asks_before_it_overwrites(miras, tmp_path):
    (tmp_path / "mine.py").write_text("mine")
    shown = miras("compile", "good.mem", "-o", "mine.py")
    assert shown.exit_code == 3
    assert shown.stderr == "error: mine.py exists; choose another name, or --force\n"
    assert (tmp_path / "mine.py").read_text() == "mine"
    assert miras("compile", "good.mem", "-o", "mine.py", "--force").exit_code == 0
    assert "class Delta" in (tmp_path / "mine.py").read_text()


@pytest.mark.parametrize(
    "content", ["", "mine", "[1]", '{"a": 1}', '{"a": {"schema": "other-1"}}', "[" * 100_000]
)
def test_check_overwrites_certificates_only(miras, tmp_path, content):
    """Refused before the work is done, and whatever the file is called."""
    (tmp_path / "other.json").write_text(content)
    shown = miras("check", "good.mem", "-o", "other.json")
    assert shown.exit_code == 3
    assert "other.json exists and is no certificate; choose another name" in shown.output
    assert (tmp_path / "other.json").read_text() == content


def test_an_earlier_certificate_may_be_overwritten(tmp_path):
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps({"A": {"schema": "miras-certificate-1"}, "B": {}}))
    with pytest.raises(EnvironmentFailure, match="is no certificate"):
        resolve_output(path, certificate=True)
    path.write_text(json.dumps({"A": {"schema": "miras-certificate-1", "rows": []}}))
    resolve_output(path, certificate=True).write("new")
    assert path.read_text() == "new"


def test_a_link_stays_a_link(miras, tmp_path):
    """What it points to is written, there or not yet."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.py").symlink_to("sub/real.py")
    assert miras("compile", "good.mem", "-o", "link.py").exit_code == 0
    assert miras("compile", "good.mem", "-o", "link.py").exit_code == 3
    assert miras("compile", "good.mem", "-o", "link.py", "--force").exit_code == 0
    assert (tmp_path / "link.py").is_symlink()
    assert not (tmp_path / "sub" / "real.py").is_symlink()
    assert files(tmp_path / "sub") == ["real.py"]


def test_a_pipe_stays_a_pipe(miras, tmp_path):
    """What is no regular file is written to, not replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[str] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()), daemon=True)
    reader.start()
    shown = miras("compile", "good.mem", "-o", "pipe")
    reader.join(60)
    assert shown.exit_code == 0, shown.output
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert "class Delta" in heard[0]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(EnvironmentFailure, match="is a folder; name a file in it"):
        resolve_output(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have_gets_a_sentence(tmp_path, name):
    with pytest.raises(EnvironmentFailure, match="cannot be written"):
        resolve_output(tmp_path / name).write("text")


def test_the_standard_output_by_its_name(miras, tmp_path):
    """The module and nothing else, into a pipe and into a file."""
    plain = miras("compile", "good.mem").stdout
    piped = process("compile", "good.mem", "-o", "/proc/self/fd/1", cwd=tmp_path)
    assert (piped.returncode, piped.stdout) == (0, plain)
    shell = '"$@" > kept.py'
    run = process("compile", "good.mem", "-o", "/proc/self/fd/1", shell=shell, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "kept.py").read_text() == plain


def test_the_users_mask_decides_who_may_read(tmp_path):
    """A new file is made as any other; one that was there keeps its mode."""
    before = os.umask(0o027)
    try:
        resolve_output(tmp_path / "new").write("text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o600)
    resolve_output(tmp_path / "new", force=True).write("more")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def test_the_spec_is_told_from_its_copy(tmp_path):
    """Two files that say the same are two files."""
    for name in ("a.mem", "b.mem"):
        (tmp_path / name).write_text(GOOD)
    resolve_output(tmp_path / "a.mem", spec=str(tmp_path / "b.mem"), force=True)
    with pytest.raises(UsageError):
        resolve_output(tmp_path / "a.mem", spec=str(tmp_path / "a.mem"), force=True)
