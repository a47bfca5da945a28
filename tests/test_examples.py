"""The scripts of examples/ run as they stand, and show what they say they show."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def run(capsys):
    def run(name: str):
        found = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()
        assert capsys.readouterr().out
        return found

    return run


def test_swap_geoopt(run):
    found = run("swap_geoopt")
    (loss, error), (our_loss, our_error) = found["geoopt"], found["hdrm"]
    assert our_loss == pytest.approx(loss, rel=1e-2)
    assert our_error < 1e-6
    assert error > 1e-2


def test_tree_embedding(run):
    found = run("tree_embedding")
    assert found["hyperbolic"] > 0.85
    assert found["euclidean"] < 0.8


def test_train_and_recommend(run):
    model = run("train_and_recommend")
    items, _ = model.recommend([7, 8], k=5)
    for user, recommended in zip((7, 8), items):
        assert not set(recommended.tolist()) & set(model.graph.user_items.row(user).tolist())


def test_custom_recommender(run):
    found = run("custom_recommender")
    assert found["ours"] > found["popularity"]


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert {f"test_{name}" for name in names} <= globals().keys()
