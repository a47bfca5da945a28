"""`hdrm doctor`: what it says, what it keeps to itself, and that it notices what does not work."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import hdrm
from hdrm import cli, doctor, native, ops


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs ``hdrm doctor ARGS``; returns (exit code, stdout)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["hdrm", "doctor", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out

    return call


def test_the_report_says_what_a_bug_report_needs(run, monkeypatch):
    monkeypatch.setenv("HDRM_KEPT_MEMORY", "500MB")
    code, out = run()
    assert code == 0 and out.endswith("no problems found\n")
    for text in (
        f"hdrm: {hdrm.__version__}",
        f"torch: {torch.__version__}",
        "numpy: ",
        "geoopt: ",
        "glibc: ",
        "SIMD level chosen: ",
        "HDRM_KEPT_MEMORY: 500MB",
        "reference: works",
        "free on the disk: ",
        "GPUs: ",
    ):
        assert text in out


def test_the_json_is_the_report(run):
    code, out = run("--json")
    found = json.loads(out)
    assert code == 0 and found["problems"] == []
    assert found["versions"]["torch"] == torch.__version__
    states = {name: state == "works" for name, state in found["backends"].items()}
    there = {name: state == "available" for name, state in ops.available_backends().items()}
    assert states == there


def test_the_home_folder_and_the_datas_place_are_not_told(run, monkeypatch, tmp_path):
    (tmp_path / "secret-study").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HDRM_DATA", str(tmp_path / "secret-study"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PASSWORD", "opensesame")
    code, out = run()
    assert code == 0 and "HDRM_DATA: a folder" in out and "CUDA_HOME: ~/cuda" in out
    assert not any(text in out for text in (str(tmp_path), "secret-study", "opensesame"))


def test_data_that_are_not_there_are_a_problem(run, monkeypatch):
    monkeypatch.setenv("HDRM_DATA", "no such place")
    code, out = run()
    assert code == 1 and "problem: HDRM_DATA names no folder" in out


@pytest.mark.skipif(native.load() is None, reason="the compiled kernels are not built")
def test_a_backend_that_computes_something_else_is_a_problem(run, monkeypatch):
    right = ops.propagate

    def wrong_where_compiled(*args, **named):
        return right(*args, **named) + 1e-3 * (ops.backend._forced == "cpu")

    monkeypatch.setattr(ops, "propagate", wrong_where_compiled)
    code, out = run()
    expected = "problem: the backend cpu fails: propagate differs from the reference by 0.001"
    assert code == 1 and expected in out
    assert "reference: works" in out


def test_a_backend_that_breaks_is_a_problem_with_its_error(run, monkeypatch):
    def broken(*args, **named):
        raise OSError("libfoo.so.7:\ncannot open shared object file")

    monkeypatch.setattr(ops, "propagate", broken)
    code, out = run("--json")
    expected = "fails: OSError: libfoo.so.7: cannot open shared object file"
    assert code == 1 and json.loads(out)["backends"]["reference"] == expected


def test_compiled_code_that_does_not_load_is_a_problem(run, monkeypatch):
    if native.load() is None:
        pytest.skip("the compiled kernels are not built")
    monkeypatch.setattr(ops.backend, "_COMPILED", False)
    monkeypatch.setattr(native, "_attempt", lambda: (None, "it does not load; compile it again"))
    code, out = run()
    assert code == 1 and "problem: it does not load; compile it again" in out


def test_a_program_that_fails_or_is_missing_is_no_line(tmp_path):
    assert doctor._first_line("no-such-compiler", "--version") is None
    assert doctor._last_line(sys.executable, "-c", "raise SystemExit(3)") is None
    assert doctor._last_line(sys.executable, "-c", "print('a\\nb')") == "b"


def test_the_revision_is_that_of_the_checkout():
    if not (Path(doctor._ROOT) / ".git").exists():
        pytest.skip("not a checkout")
    assert doctor._revision().split("-dirty")[0].isalnum()
