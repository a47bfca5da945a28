"""What a data set looks like: sizes, popularity, who is cold, and how tree-like it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hdrm.data.datasets import Dataset
from hdrm.data.hyperbolicity import Hyperbolicity, sampled_hyperbolicity

FEW = 5  # training interactions; with fewer a user or an item is nearly cold
SHORT = 6  # up to this diameter δ takes few values
TREE_LIKE = 0.25  # δ_rel


@dataclass(frozen=True)
class PowerLaw:
    """P(k) ∝ k^−exponent for k ≥ start, which ``share`` of the values are; ``gap`` is the fit's KS."""

    exponent: float
    start: int
    share: float
    gap: float


@dataclass(frozen=True)
class Degrees:
    """Training interactions of the users, or of the items.

    none, few: how many have none, and how many fewer than 5 (those included).
    """

    size: int
    median: float
    largest: int
    none: int
    few: int

    @classmethod
    def of(cls, degrees: np.ndarray) -> Degrees:
        none, few = int((degrees == 0).sum()), int((degrees < FEW).sum())
        return cls(len(degrees), float(np.median(degrees)), int(degrees.max()), none, few)


@dataclass(frozen=True)
class Summary:
    """Figures of a data set; all but the sizes and the density are of the training interactions."""

    sizes: dict[str, int]  # train, valid, test
    density: float
    users: Degrees
    items: Degrees
    gini: float
    tail: PowerLaw | None
    hyperbolicity: Hyperbolicity | None


def summarise(dataset: Dataset, *, seed: int = 0) -> Summary:
    """The figures of a data set; ``seed`` draws the nodes that δ is taken over."""
    sizes = {name: split.nnz for name, split in dataset.splits.items()}
    degrees = dataset.graph.rowptr.diff().numpy()
    users, items = np.split(degrees, [dataset.num_users])
    return Summary(
        sizes,
        sum(sizes.values()) / (dataset.num_users * dataset.num_items),
        Degrees.of(users),
        Degrees.of(items),
        gini(items),
        power_law(items),
        sampled_hyperbolicity(dataset.graph, seed=seed),
    )


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts, not all 0: 0 (all equal) … 1 (one has everything)."""
    counts = np.sort(counts)
    n = len(counts)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * counts.astype(np.float64)).sum() / (n * counts.sum(dtype=np.float64)))


def power_law(counts: np.ndarray, *, least: int = 50) -> PowerLaw | None:
    """The tail of positive integer counts as a power law, by maximum likelihood.

    α = 1 + n / Σ ln(k / (start − ½)) over the n counts k ≥ start, and the start whose fit is nearest
    in the Kolmogorov–Smirnov distance: Clauset, Shalizi, Newman, SIAM Review 51 (2009), equations
    3.7 and 3.9. Starts below 6, where 3.7 is not accurate, are not tried, nor those that leave fewer
    than ``least`` counts. That a power law is fitted does not say that it fits.

    None where no start is left.
    """
    values, times = np.unique(counts[counts > 0], return_counts=True)
    above = np.cumsum(times[::-1])[::-1]  # counts from each value on
    best = None
    for at in np.flatnonzero((values >= 6) & (above >= least)):
        k, n = values[at:], above[at]
        logs = (times[at:] * np.log(k / (k[0] - 0.5))).sum()
        exponent = 1 + n / logs
        fitted = ((k - 0.5) / (k[0] - 0.5)) ** (1 - exponent)  # P(K ≥ k)
        gap = float(np.abs(above[at:] / n - fitted).max())
        if best is None or gap < best.gap:
            best = PowerLaw(float(exponent), int(k[0]), float(n / above[0]), gap)
    return best


def expectation(summary: Summary) -> str:
    """One careful sentence on what δ lets one expect of hyperbolic space."""
    measure = "measure it: hdrm train beside python -m hdrm.baselines"
    found = summary.hyperbolicity
    if found is None:
        return f"Too few of the sampled nodes are connected for δ to say anything; {measure}."
    if found.diameter <= SHORT:
        return (
            f"Distances are short (at most {found.diameter} among {found.nodes} nodes), so δ takes "
            f"few values and says little about hyperbolic space; {measure}."
        )
    if found.relative <= TREE_LIKE:
        return (
            "The distances are close to a tree's, which hyperbolic space holds in few dimensions; "
            f"whether that ranks better than a flat space δ does not say; {measure}."
        )
    return (
        "The distances are not close to a tree's, so that δ gives no reason to expect more of "
        f"hyperbolic space than of a flat one; {measure}."
    )
