"""What a command prints when something fails: warnings, internal errors, a closed output."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch

import miras_dsl
from miras_dsl.cli import check as cli_check
from miras_dsl.runtime.judge.certificate import Certificate
from miras_dsl.runtime.load import certify_file
from tests.project.command import GOOD, WARNED, process


@pytest.mark.parametrize("command", ["explain", "compile"])
def test_a_warning_is_shown_beside_the_answer(miras, command):
    """On stderr with its code; stdout and exit status are as without it."""
    shown = miras(command, "warned.mem")
    assert shown.exit_code == 0
    assert shown.stderr.startswith("warning[M0801]: `mu` is never used\n   --> warned.mem:8:")
    assert "M0801" not in shown.stdout
    assert miras(command, "good.mem").stderr == ""


def test_json_holds_the_warnings(miras):
    """And stderr stays empty."""
    compiled = miras("compile", "warned.mem", "--json")
    explained = miras("explain", "warned.mem", "--format", "json", "--stage", "gradient")
    found = [
        json.loads(compiled.stdout)["warnings"],
        json.loads(explained.stdout)["Delta"]["warnings"],
    ]
    assert [[warning["code"] for warning in each] for each in found] == [["M0801"], ["M0801"]]
    assert compiled.stderr == explained.stderr == ""
    assert json.loads(miras("compile", "good.mem", "--json").stdout)["warnings"] == []


@pytest.fixture
def quick(monkeypatch):
    """`miras check` with two cases instead of all."""
    real = certify_file.certify

    def certify(*given, **options):
        from miras_dsl.runtime.judge.cases import covering

        return real(*given, **options, cases=covering(64)[:2])

    monkeypatch.setattr(certify_file, "certify", certify)


def test_check_shows_warnings_and_stays_green(miras, tmp_path, quick):
    """In text on stderr, in JSON in each certificate, which can still be read as one."""
    shown = miras("check", "warned.mem", "-o", "kept.json")
    assert shown.exit_code == 0, shown.output
    assert "warning[M0801]" in shown.stderr
    assert "comparisons" in shown.stdout
    told = json.loads(miras("check", "warned.mem", "--json", "-o", "kept.json").stdout)["Delta"]
    assert [warning["code"] for warning in told["warnings"]] == ["M0801"]
    kept = json.loads((tmp_path / "kept.json").read_text())["Delta"]
    read = [Certificate.from_json(json.dumps(each)) for each in (told, kept)]
    assert read[0] == read[1]
    assert read[0].green


def test_load_warns_once_per_text():
    """With a category of our own, at the line that loads."""
    text = WARNED.replace("Delta", "WarnedOnce")
    with pytest.warns(miras_dsl.SpecWarning, match="`mu` is never used; more: miras expl") as found:
        miras_dsl.load(text)
    assert [warning.filename for warning in found] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        miras_dsl.load(text)
        miras_dsl.load(GOOD)


def test_what_to_do_about_a_red_certificate(miras, monkeypatch, quick):
    """Named are the quantity that is furthest off, the derivation and the debug mode."""
    real = certify_file.certify

    def wrong(memory, implementation, **options):
        def off(sizes):
            run = implementation(sizes)

            def wrongly(inputs, state, cu_seqlens=None):
                y, after = run(inputs, state, cu_seqlens)
                return y * factor, after

            return wrongly

        return real(memory, off, **options)

    monkeypatch.setattr(certify_file, "certify", wrong)
    factor = 1.5
    shown = miras("check", "good.mem")
    assert shown.exit_code == 1
    *_, verdict, last = shown.stdout.splitlines()
    assert verdict.startswith("RED: ") and " comparisons failed" in verdict
    assert last.startswith("next: ")
    assert " of Delta (" in last
    assert "miras explain good.mem --stage gradient" in last
    assert "the code differs from the rule" in last and "MIRAS_DEBUG=1 miras check good.mem" in last
    factor = torch.nan
    last = miras("check", "good.mem").stdout.splitlines()[-1]
    assert "is not finite, where the rule itself is; MIRAS_DEBUG=1 miras check good.mem" in last


def test_a_certificate_without_rows_is_reported(quick):
    """No row is furthest off where none was made."""
    (made,) = miras_dsl.certify(GOOD).values()
    assert made.worst is None
    bare = dataclasses.replace(made, rows=())
    assert f"{len(made.expected)} comparisons of Delta were not made" in cli_check._next("a", bare)


def test_a_gpu_that_is_not_there_gets_a_sentence(miras, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    shown = miras("check", "good.mem", "--device", "cuda:1")
    assert shown.exit_code == 3
    assert shown.stderr == "error: torch finds no GPU cuda:1 on this machine; choose cpu\n"


def test_without_a_spinner_a_line_says_what_takes_long(miras, monkeypatch, quick):
    """A line for each memory on stderr; in JSON none."""
    monkeypatch.setattr(cli_check, "PATIENCE", 0.0)
    shown = miras("check", "good.mem")
    assert shown.stderr == "checking good.mem …\nchecking Delta of good.mem …\n"
    assert miras("check", "good.mem", "--json").stderr == ""
    monkeypatch.setattr(cli_check, "PATIENCE", 1000.0)
    assert miras("check", "good.mem").stderr == ""


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_a_fault_of_ours_has_a_status_of_its_own(miras, monkeypatch, as_json):
    """With the traceback, and a line that asks to report it."""

    def broken(_spec):
        raise ZeroDivisionError("a slip")

    monkeypatch.setattr("miras_dsl.parse", broken)
    shown = miras("check", "good.mem", *as_json)
    assert shown.exit_code == 70
    assert "Traceback" in shown.stderr
    assert "in broken" in shown.stderr
    told = json.loads(shown.stdout)["errors"][0]["what"] if as_json else shown.stderr
    assert "please report it with the lines above" in told
    assert "ZeroDivisionError: a slip" in told


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    """`miras compile … | true`: not a word."""
    (tmp_path / "good.mem").write_text(GOOD)
    # The reader is gone before anything is written.
    shell = '{ sleep 0.2; "$@"; echo "status $?" >&2; } | true'
    for words in (["explain", "good.mem"], ["compile", "good.mem"]):
        run = process(*words, shell=shell, cwd=tmp_path)
        assert run.stderr == "status 141\n"


def test_an_output_that_is_full_is_called_the_output(tmp_path):
    """No file may grow here, as on a full disk."""
    (tmp_path / "good.mem").write_text(GOOD)
    shell = 'ulimit -f 0; "$@" > shown.txt'
    for words in (["explain", "good.mem"], ["compile", "good.mem", "--json"]):
        run = process(*words, shell=shell, cwd=tmp_path)
        assert run.returncode == 3
        assert run.stderr == "error: the output: File too large\n"


def test_ctrl_c_while_the_commands_are_imported(tmp_path):
    """One sentence, no traceback."""
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
    run = process("--help", path=str(tmp_path))
    assert run.returncode == 130
    assert run.stderr == "stopped before the end; start again when you like\n"
