"""The README is a promise: its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if "HDRM.load" not in b], ids=["ops", "geoopt"]
)
def test_example(block):
    exec(compile(block, "README.md", "exec"), {})


def test_recommender_example(tmp_path, monkeypatch):
    """The third example on a run trained here for a moment."""
    from hdrm.config import PRESETS
    from hdrm.data import load
    from hdrm.train import Trainer

    monkeypatch.chdir(tmp_path)
    config = PRESETS["demo"].replace(dim=8, hidden=(8,), encoder_epochs=1, diffusion_epochs=1)
    Trainer(load("demo"), config, Path("runs/NAME"), source="demo").fit()
    names: dict = {}
    (block,) = [b for b in BLOCKS if "HDRM.load" in b]
    exec(compile(block, "README.md", "exec"), names)
    assert names["items"].shape == names["distances"].shape == (2, 10)
