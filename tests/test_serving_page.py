"""docs/serving.md is a promise too: its commands and examples run as they stand, in their order."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from hdrm import cli
from hdrm.config import PRESETS
from hdrm.data import load
from hdrm.train import Trainer

PAGE = (Path(__file__).parent.parent / "docs" / "serving.md").read_text()
# What is to be run: lines of four blanks that start with hdrm, and blocks of Python.
STEPS = re.findall(r"^    (hdrm [^\n]*)$|^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.txt").write_text("7\n8\n")
    config = PRESETS["demo"].replace(dim=8, hidden=(8,), encoder_epochs=1, diffusion_epochs=1)
    names: dict = {}
    for command, block in STEPS:
        if block:
            (tmp_path / "block.py").write_text(block)
            names = runpy.run_path("block.py", names)
        elif command.startswith("hdrm train"):  # the same for a moment
            Trainer(load("demo"), config, Path("runs/NAME"), source="demo").fit()
        else:
            monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code, (command, capsys.readouterr().err)
    assert len(STEPS) == 12
    assert names["points"].shape == (2, 8) and names["items"].shape == (2, 10)
    expected = names["model"].recommend(7, 10)[0][0].tolist()
    assert set(names["best"].tolist()) == set(names["found"][0].tolist()) == set(expected)
    near = [i for i in names["near"][0].tolist() if i not in (1, 5, 9)][:10]
    assert set(near) == set(names["model"].recommend_for([[1, 5, 9]], 10)[0][0].tolist())
    for name in ("lists.parquet", "lists.csv", "vectors.npz", "vectors.safetensors", "items.faiss"):
        assert (tmp_path / name).stat().st_size
