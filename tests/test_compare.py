"""The paired bootstrap: on simulated users, beside scipy, and between two runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from hdrm.config import Config
from hdrm.data import Dataset
from hdrm.train import Trainer, compare, runs
from hdrm.train.compare import compare_runs, paired_bootstrap

SHIFT = 0.03


def users(n: int, metrics: int, seed: int, shift: float = SHIFT) -> tuple[np.ndarray, np.ndarray]:
    """Skewed metrics that vary ten times as much between users as between the two rankers."""
    generator = np.random.default_rng(seed)
    a = generator.gamma(0.5, 1.0, (n, metrics))
    return a, a + shift + 0.1 * generator.normal(size=a.shape)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """1,000 experiments, one a column. Not paired, the interval would be wider and cover all."""
    found = paired_bootstrap(*users(150, 1000, seed=0), resamples=2000)
    covered = np.mean([one.low <= SHIFT <= one.high for one in found])
    assert 0.925 < covered < 0.965
    found = paired_bootstrap(*users(150, 1000, seed=1), resamples=2000, confidence=0.5)
    covered = np.mean([one.low <= SHIFT <= one.high for one in found])
    assert 0.45 < covered < 0.55


def test_p_is_uniform_where_there_is_no_difference():
    p = np.array([one.p for one in paired_bootstrap(*users(150, 1000, 2, shift=0), resamples=2000)])
    for level in (0.05, 0.2, 0.5, 0.8):
        assert np.mean(p <= level) == pytest.approx(level, abs=0.045)
    p = np.array([one.p for one in paired_bootstrap(*users(150, 1000, 3), resamples=2000)])
    assert np.mean(p < 0.05) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_scipy_finds_the_same(seed):
    a, b = users(200, 1, seed, shift=0.008)
    (found,) = paired_bootstrap(a, b, resamples=10_000, seed=seed)
    error = (b - a).std(ddof=1) / np.sqrt(200)
    theirs = stats.bootstrap(
        (a[:, 0], b[:, 0]),
        lambda a, b, axis: b.mean(axis) - a.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=seed,
    ).confidence_interval
    # The quantile of 10,000 resamples has a standard error of 0.027 in this unit.
    assert found.low == pytest.approx(theirs.low, abs=0.15 * error)
    assert found.high == pytest.approx(theirs.high, abs=0.15 * error)
    assert found.p == pytest.approx(stats.ttest_rel(a[:, 0], b[:, 0]).pvalue, abs=0.03)
    assert found.difference == pytest.approx((b - a).mean())
    assert (found.a, found.b) == (pytest.approx(a.mean()), pytest.approx(b.mean()))


def test_equal_metrics_differ_by_nothing():
    a, _ = users(50, 3, seed=0)
    for one in paired_bootstrap(a, a.copy(), resamples=100):
        assert (one.difference, one.low, one.high, one.p) == (0, 0, 0, 1)


def test_changing_sides_changes_signs():
    a, b = users(50, 3, seed=0)
    for one, other in zip(paired_bootstrap(a, b), paired_bootstrap(b, a)):
        assert one.difference == -other.difference and one.p == other.p
        assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))


def test_the_smallest_p_is_one_of_the_resamples():
    a, b = users(50, 1, seed=0, shift=5)
    assert paired_bootstrap(a, b, resamples=199)[0].p == 1 / 200


def test_blocks_change_nothing(monkeypatch):
    a, b = users(30, 2, seed=4)
    whole = paired_bootstrap(a, b, resamples=101)
    for block in (1, 70):
        monkeypatch.setattr(compare, "BLOCK", block)
        for one, other in zip(paired_bootstrap(a, b, resamples=101), whole):
            assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=1e-12)
            assert one.p == other.p


@pytest.mark.parametrize(
    ("shapes", "settings", "words"),
    [
        (((5, 2), (6, 2)), {}, r"\(5, 2\) and \(6, 2\)"),
        (((5,), (5,)), {}, "users, metrics"),
        (((1, 2), (1, 2)), {}, "at least 2 users, got 1"),
        (((5, 2), (5, 2)), {"resamples": 0}, "resamples must be at least 1"),
        (((5, 2), (5, 2)), {"confidence": 1.0}, "confidence must lie between"),
    ],
)
def test_mistakes(shapes, settings, words):
    with pytest.raises(ValueError, match=words):
        paired_bootstrap(*(np.zeros(shape) for shape in shapes), **settings)


def test_metrics_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap(np.zeros((3, 1)), np.array([[0], [np.nan], [0]]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of two seeds on one data set, and one on other data."""
    root = tmp_path_factory.mktemp("runs")
    config = Config(dim=9, hidden=(8,), encoder_epochs=2, diffusion_epochs=0, encoder_batch=400)
    made = []
    for data, seed, curvature in ((0, 0, 1.0), (0, 1, 5.0), (1, 0, 1.0)):
        pairs = np.argwhere(np.random.default_rng(data).random((40, 30)) < 0.3)
        source = root / f"data{data}"
        source.mkdir(exist_ok=True)
        splits = pairs[::2], pairs[1::4], pairs[3::4]
        for name, split in zip(("train", "valid", "test"), splits):
            np.save(source / f"{name}_list.npy", split)
        dataset = Dataset.from_pairs(source.name, 40, 30, *splits)
        made.append(root / f"run{len(made)}")
        Trainer(
            dataset, config.replace(seed=seed, curvature=curvature), made[-1], source=str(source)
        ).fit()
    return made


def test_runs_are_compared_by_what_they_reported(folders):
    a, b = (runs.Run.open(folder) for folder in folders[:2])
    found, count = compare_runs(a, b, resamples=500)
    reports = [
        json.loads((folder / runs.REPORT_FILE).read_text())["hdrm"] for folder in folders[:2]
    ]
    assert found.keys() == reports[0].keys()
    assert count == int((a.dataset().test.degrees > 0).sum())
    for name, one in found.items():
        assert (one.a, one.b) == (pytest.approx(reports[0][name]), pytest.approx(reports[1][name]))
        assert one.low <= one.difference <= one.high
    assert found["ndcg@20"].difference != 0 and found["ndcg@20"].low < found["ndcg@20"].high
    valid, _ = compare_runs(a, b, "valid", resamples=10)
    logged = json.loads((folders[1] / runs.METRICS_FILE).read_text().splitlines()[-1])
    assert valid["ndcg@20"].b == pytest.approx(logged["ndcg@20"])


def test_a_run_equals_itself(folders):
    a, again = (runs.Run.open(folders[0]) for _ in range(2))
    found, _ = compare_runs(a, again, resamples=100)
    assert {(one.difference, one.p) for one in found.values()} == {(0.0, 1.0)}


def test_runs_on_other_data_are_not_compared(folders):
    with pytest.raises(ValueError, match="same data only: .*run0 is of data0.*run2 is of data1"):
        compare_runs(runs.Run.open(folders[0]), runs.Run.open(folders[2]))
