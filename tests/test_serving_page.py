"""docs/serving.md is a promise too: its commands and examples run as they stand, in their order."""

from __future__ import annotations

import pages
import pytest
import torch

STEPS = pages.steps("serving.md")


def test_the_page(tmp_path, monkeypatch, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "users.txt").write_text("7\n8\n")
    names = pages.run(STEPS, monkeypatch, capsys)
    assert len(STEPS) == 14
    assert names["points"].shape == (2, 8) and names["items"].shape == (2, 10)
    expected = names["model"].recommend(7, 10)[0][0].tolist()
    assert set(names["best"].tolist()) == set(names["found"][0].tolist()) == set(expected)
    near = [i for i in names["near"][0].tolist() if i not in (1, 5, 9)][:10]
    assert set(near) == set(names["model"].recommend_for([[1, 5, 9]], 10)[0][0].tolist())
    assert torch.equal(names["served_items"], names["model"].recommend([7, 8, 9], 10)[0])
    for name in ("lists.parquet", "lists.csv", "vectors.npz", "vectors.safetensors", "items.faiss"):
        assert (tmp_path / name).stat().st_size
