"""The generated data: exact sizes, the same bits everywhere, and a structure worth learning."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdrm.data import load, synthetic_stream
from hdrm.data.synthetic import hierarchical
from hdrm.data.synthetic_stream import power_law


def test_demo_is_the_same_everywhere():
    data = load("demo")
    assert (data.num_users, data.num_items) == (2_000, 1_500)
    assert sum(split.nnz for split in data.splits.values()) == 60_000
    # Whoever changes the generator or the split changes every number published for the demo.
    assert data.fingerprint() == "03f8cc5432660a079baab9526843eef8c7ea467ab45fe79929a06d650df30422"
    assert load("demo", seed=1).fingerprint() != data.fingerprint()


def test_demo_users_have_items_in_every_split():
    data = load("demo")
    for split in data.splits.values():
        assert (split.degrees > 0).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sizes_are_exact_and_pairs_distinct(data):
    num_users = data.draw(st.integers(1, 40))
    num_items = data.draw(st.integers(10, 60))
    total = data.draw(st.integers(num_users, num_users * num_items // 10))
    branching = data.draw(st.sampled_from([(6, 5, 5), (2,), (3, 1, 4)]))
    pairs = hierarchical(num_users, num_items, total, 0, branching=branching)
    assert pairs.shape == (total, 2) and pairs.dtype == np.int64
    assert len(np.unique(pairs, axis=0)) == total
    assert pairs.min() >= 0 and (pairs.max(axis=0) < (num_users, num_items)).all()
    assert len(np.unique(pairs[:, 0])) == num_users


@pytest.mark.parametrize(
    "sizes", [(0, 10, 10), (10, 0, 10), (10, 100, 9), (10, 100, 101), (1, 5, 1)]
)
def test_refuses(sizes):
    with pytest.raises(ValueError, match="sizes must be|must lie between"):
        hierarchical(*sizes, 0)


def test_popularity_and_activity_are_skewed():
    pairs = hierarchical(2_000, 1_500, 60_000, 3)
    items = np.sort(np.bincount(pairs[:, 1], minlength=1_500))[::-1]
    users = np.sort(np.bincount(pairs[:, 0], minlength=2_000))[::-1]
    assert items[:150].sum() > 0.4 * 60_000
    assert 3 * 30 < users[0] < 6 * 30 and users[-1] >= 10


def recall_at_20(scores: np.ndarray, data) -> float:
    for split in (data.train, data.valid):
        scores[split.pairs()] = -np.inf
    relevant = np.zeros(scores.shape, dtype=bool)
    relevant[data.test.pairs()] = True
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    hits = np.take_along_axis(relevant, top, axis=1).sum(axis=1)
    return float((hits / relevant.sum(axis=1)).mean())


def test_neighbours_beat_popularity_on_the_demo():
    data = load("demo")
    train = np.zeros((data.num_users, data.num_items), dtype=np.float32)
    train[data.train.pairs()] = 1
    popularity = train.sum(axis=0)
    norm = train / np.sqrt(np.maximum(popularity, 1))
    cosine = norm.T @ norm
    np.fill_diagonal(cosine, 0)
    ranked_by_count = recall_at_20(np.tile(popularity, (data.num_users, 1)), data)
    assert ranked_by_count > 0.1
    assert recall_at_20(train @ cosine, data) > 1.5 * ranked_by_count


def test_streamed_interactions_are_distinct_exact_and_reproducible(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic_stream, "BLOCK", 5000)  # many blocks, users larger than one
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        power_law(tmp_path / name, 2_000, 3_000, 60_000, seed)
    frame = pl.read_parquet(tmp_path / "a")
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64}
    assert len(frame) == frame.n_unique() == 60_000 and frame["user"].is_sorted()
    assert frame["user"].n_unique() == frame["user"].max() + 1 == 2_000
    assert frame["item"].min() >= 0 and frame["item"].max() < 3_000
    assert frame.equals(pl.read_parquet(tmp_path / "b"))
    assert not frame.equals(pl.read_parquet(tmp_path / "c"))
    # Other bits than these make every published time and size another one's.
    digest = hashlib.sha256(frame.to_numpy().astype("<i8").tobytes(order="C")).hexdigest()
    assert digest[:16] == "3fbbd6cf27e14671"
    users = np.sort(np.bincount(frame["user"]))[::-1]
    items = np.sort(np.bincount(frame["item"]))[::-1]
    assert 5 * 30 < users[0] <= 3_000 // 4 + 30 and users[-1] >= 10
    assert items[:300].sum() > 0.4 * 60_000
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.mark.parametrize("sizes", [(1, 20, 1), (40, 10, 20), (7, 1_000, 350), (100, 100, 500)])
def test_streamed_sizes_at_the_edge(tmp_path, sizes):
    users, items, total = sizes
    if not users <= total <= users * items // 20:
        with pytest.raises(ValueError, match="must lie between"):
            power_law(tmp_path / "a", *sizes, 0)
    else:
        power_law(tmp_path / "a", *sizes, 0)
        frame = pl.read_parquet(tmp_path / "a")
        assert len(frame) == frame.n_unique() == total and frame["user"].n_unique() == users


def test_a_streamed_file_is_whole_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError, match="a exists; name another file"):
        power_law(tmp_path / "a", 10, 100, 20, 0)
    with pytest.raises(ValueError, match="sizes must be at least 1"):
        power_law(tmp_path / "b", 0, 100, 20, 0)
    calls = []

    def stop(*args):
        calls.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic_stream, "draw_distinct", stop)
    with pytest.raises(BaseException):  # noqa: B017  polars wraps what a source raises
        power_law(tmp_path / "b", 10, 100, 20, 0)
    assert calls and os.listdir(tmp_path) == ["a"]

    def fail(*args, **named):
        raise pl.exceptions.ComputeError("No space left on device (os error 28)\nmore")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", fail)
    with pytest.raises(
        OSError, match="b cannot be written: No space left on device .os error 28.$"
    ):
        power_law(tmp_path / "b", 10, 100, 20, 0)
