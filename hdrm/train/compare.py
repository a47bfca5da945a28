"""Is one run better than another? A paired bootstrap over the users both were measured on.

Of users' metrics a_u, b_u the differences δ_u = b_u − a_u are what varies. A resample draws n of the n
users with replacement; the means of its δ spread around the observed mean Δ as Δ does around the
truth. From the means Δ*_1 … Δ*_R of R resamples:

    interval    the (1−γ)/2 and (1+γ)/2 quantiles of Δ*
    p-value     (1 + |{r : |Δ*_r − Δ| ≥ |Δ|}|) / (1 + R), two-sided: Δ* moved to the null hypothesis

The interval is the percentile interval of Efron and Tibshirani, *An introduction to the bootstrap*,
1993, §13.3, and the test shifts the mean as theirs of §16.4; Smucker, Allan and Carterette, *A
comparison of statistical significance tests for information retrieval evaluation*, CIKM 2007, found it
to agree with the t test and the randomisation test on rankings. The ones keep p above 0 (Davison and
Hinkley, *Bootstrap methods and their application*, 1997, §4.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .evaluate import by_distance, task, user_metrics
from .runs import Run

BLOCK = 2**22  # users drawn at a time: bounds memory


@dataclass(frozen=True)
class Difference:
    """A metric of two runs; ``difference`` is b − a, ``low`` and ``high`` its interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


def compare_runs(
    a: Run, b: Run, split: str = "test", *, resamples: int = 10_000, seed: int = 0
) -> tuple[dict[str, Difference], int]:
    """Every metric of two runs on "valid" or "test", and the number of users it is averaged over.

    Raises:
        ValueError: the runs are not of the same data, or as :func:`paired_bootstrap`.
    """
    prints = [run.description["fingerprint"] for run in (a, b)]
    if prints[0] != prints[1]:
        shown = [
            f"{run.folder} is of {run.description['name']} ({fingerprint[:12]}…)"
            for run, fingerprint in zip((a, b), prints)
        ]
        raise ValueError(
            f"runs can be compared on the same data only: {shown[0]}, {shown[1]}; train both on one "
            f"data set"
        )
    relevant, *known = task(a.dataset(), split)
    names, columns = [], []
    for run in (a, b):
        rank = by_distance(run.model.points(), *known, c=run.model.config.curvature)
        names, values = zip(*user_metrics(rank, relevant))
        columns.append(np.stack(values, 1))
    found = paired_bootstrap(*columns, resamples=resamples, seed=seed)
    return dict(zip(names, found)), len(columns[0])


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """The differences of metrics of the same users, with intervals and p-values as stated above.

    All metrics are averaged over the same resamples. Time is in proportion to resamples·n; memory
    to n·m, and beside it 100 MB at most, or 24 bytes a user where that is more.

    Args:
        a, b: float (n, m), m metrics of n users; row u of both is the same user.
        resamples: R, at least 1.
        confidence: γ, between 0 and 1.
        seed: of the resamples.

    Returns:
        One difference of each of the m metrics.

    Raises:
        ValueError: shapes that differ or are not (n, m), fewer than 2 users, values that are not
            finite, resamples or confidence out of range.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (a, b))
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"paired_bootstrap needs two arrays (users, metrics) of one shape, got {a.shape} and "
            f"{b.shape}"
        )
    if len(a) < 2:
        raise ValueError(f"paired_bootstrap needs at least 2 users, got {len(a)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("paired_bootstrap needs finite metrics, got infinity or NaN")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    means = _resampled_means(b - a, resamples, np.random.default_rng(seed))
    observed = (b - a).mean(0)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    extreme = (np.abs(means - observed) >= np.abs(observed)).sum(0)
    p = (1 + extreme) / (1 + resamples)
    # Column by column, as a run's report adds them up: both say the same, to the last digit.
    of_a, of_b = (np.ascontiguousarray(values.T).mean(1) for values in (a, b))
    rows = np.stack([of_a, of_b, observed, low, high, p], 1)
    return [Difference(*row) for row in rows.tolist()]


def _resampled_means(values: np.ndarray, resamples: int, generator) -> np.ndarray:
    """Means (R, m) of R draws of n of the rows of values (n, m), with replacement."""
    n = len(values)
    block = max(BLOCK // n, 1)
    means = np.empty((resamples, values.shape[1]))
    for first in range(0, resamples, block):
        rows = min(block, resamples - first)
        drawn = generator.integers(0, n, (rows, n))
        drawn += np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        means[first : first + rows] = counts.astype(np.float64) @ values / n
    return means
