"""Pages of docs/ as programs: commands and blocks of Python, run in their order."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from hdrm import cli

DOCS = Path(__file__).parent.parent / "docs"
# What is to be run: lines of four blanks that start with hdrm, and blocks of Python.
STEP = re.compile(r"^    (hdrm [^\n]*)$|^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALL = ["--dim", "8", "--epochs", "1", "--set", "hidden=8"]  # added to a training


def steps(page: str) -> list[tuple[str, str]]:
    """(command, "") or ("", block) of docs/PAGE."""
    return STEP.findall((DOCS / page).read_text())


def run(steps: list[tuple[str, str]], monkeypatch, capsys) -> dict:
    """What the blocks have defined in the end; trainings are short. Runs in the current folder."""
    names: dict = {}
    for command, block in steps:
        if block:
            Path("block.py").write_text(block)
            names = runpy.run_path("block.py", names)
            continue
        arguments = shlex.split(command, comments=True)
        arguments += SMALL * (arguments[1] == "train")
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, (command, capsys.readouterr().err)
    return names
