"""Full ranking: Recall, NDCG, Precision and MRR over all items, in blocks of users.

For a user with test items T and the ranking r_1, r_2, … of all items that are not excluded:

    Recall@K = hits/|T|        Precision@K = hits/K        hits = |{j ≤ K : r_j ∈ T}|
    NDCG@K = Σ_{j ≤ K, r_j ∈ T} 1/log₂(j+1)  /  Σ_{j ≤ min(K, |T|)} 1/log₂(j+1)
    MRR@K = 1/(position of the first hit within K), 0 without one

averaged over the users with |T| > 0, all users alike. The definitions are those of DiffRec's and
HDRM's evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .. import ops
from ..data import Dataset
from ..graph import CSR, BipartiteGraph
from ..model import HDRM
from .team import team_of

CUTOFFS = (10, 20, 50, 100)
VALIDATED = (10, 20)  # of these a validation looks at
METRICS = ("recall", "ndcg", "precision", "mrr")
NOTHING_TO_FIND = "there is nothing to find: no user has a relevant item"
BLOCK = 4096  # users ranked at a time: bounds memory, changes no result

# Ids of users int64 (B,) and k → their k best items int64 (B, k), −1 for none.
Rank = Callable[[Tensor, int], Tensor]
# Rows of some of the users, in order, and those of all.
Gather = Callable[[np.ndarray], np.ndarray]


def _are_all(rows: np.ndarray) -> np.ndarray:
    return rows


def evaluate(
    points: tuple[Tensor, Tensor],
    relevant: CSR,
    *exclude: CSR,
    cutoffs: Sequence[int] = CUTOFFS,
    c: float = 1.0,
    gathered: Gather = _are_all,
) -> dict[str, float]:
    """Metrics of the ranking of items by Lorentz distance.

    Args:
        points: of users (U, d+1) and items (I, d+1) on the hyperboloid.
        relevant: CSR (U × I), the items to be found; one or more.
        exclude: CSR (U × I) of items not to rank: the training items, say. These matrices may be on
            another device than the points: what moves is a block of rows.
        cutoffs: the values of K.
        c: the curvature is −c.
        gathered: makes the hits of all users from those of these, where several processes rank.

    Returns:
        {"recall@10": …, "ndcg@10": …, …}, float64 averages; they do not depend on the blocks.

    Raises:
        ValueError: there is no item to be found.
    """
    return evaluate_ranking(by_distance(points, *exclude, c=c), relevant, cutoffs, gathered)


def evaluate_ranking(
    rank: Rank, relevant: CSR, cutoffs: Sequence[int] = CUTOFFS, gathered: Gather = _are_all
) -> dict[str, float]:
    """As :func:`evaluate`, of any ranking.

    Args:
        rank: ids of users int64 (B,) and k → their k best items int64 (B, k), −1 for none.
        relevant: CSR (U × I) of the items to be found.
    """
    return {name: float(of.mean()) for name, of in user_metrics(rank, relevant, cutoffs, gathered)}


def user_metrics(
    rank: Rank, relevant: CSR, cutoffs: Sequence[int] = CUTOFFS, gathered: Gather = _are_all
) -> Iterator[tuple[str, np.ndarray]]:
    """What :func:`evaluate_ranking` averages: the name of every metric and its values, float64 (n,).

    The n users are those with an item to be found, in ascending order. One metric comes after the
    other, so that of many users only what is looked at is in memory.
    """
    deepest = max(cutoffs)
    sizes = relevant.degrees[relevant.degrees > 0].cpu().numpy()
    first_user = 0
    hits = np.zeros((len(sizes), min(deepest, relevant.num_cols)), dtype=bool)  # in rank order
    for _, found in ranked(rank, relevant, deepest) if len(sizes) else ():
        hits[first_user : first_user + len(found)] = found.cpu().numpy()
        first_user += len(found)
    hits, sizes = gathered(hits), gathered(sizes)
    if not len(sizes):
        raise ValueError(NOTHING_TO_FIND)
    num_users = len(sizes)
    row, place = np.nonzero(hits)  # few of the entries
    gain = 1 / np.log2(np.arange(2, deepest + 2))
    ideal = np.cumsum(gain)
    first = np.full(num_users, np.inf)
    first[row[::-1]] = place[::-1] + 1  # a user's first hit is assigned last
    for k in cutoffs:
        within = place < k
        user, at = row[within], place[within]
        count = np.bincount(user, minlength=num_users)
        dcg = np.bincount(user, gain[at], minlength=num_users)
        yield f"recall@{k}", count / sizes
        yield f"ndcg@{k}", dcg / ideal[np.minimum(sizes, k) - 1]
        yield f"precision@{k}", count / k
        yield f"mrr@{k}", np.where(first <= k, 1 / first, 0.0)


def by_distance(points: tuple[Tensor, Tensor], *exclude: CSR, c: float = 1.0) -> Rank:
    """The ranking by Lorentz distance; arguments as of :func:`evaluate`."""
    user_points, item_points = points
    device = user_points.device

    def rank(users: Tensor, k: int) -> Tensor:
        seen = [csr.rows(users.to(csr.device)).to(device) for csr in exclude]
        out = functools.reduce(CSR.union, seen) if seen else None
        return ops.topk(user_points[users.to(device)], item_points, k, exclude=out, c=c)[1]

    return rank


def task(dataset: Dataset, split: str) -> tuple[CSR, ...]:
    """What a ranking on "valid" or "test" has to find, then what it leaves out: the earlier splits.

    ValueError: another split.
    """
    if split == "test":
        return dataset.test, dataset.train, dataset.valid
    if split == "valid":
        return dataset.valid, dataset.train
    raise ValueError(f"split must be 'valid' or 'test', got {split!r}")


def ranked(rank: Rank, relevant: CSR, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first k items int64 (B, min(k, I)) and which of them are relevant, block by block.

    The users are those of :func:`user_metrics`. ValueError: there is no item to be found.
    """
    if not relevant.nnz:
        raise ValueError(NOTHING_TO_FIND)
    num_items = relevant.num_cols
    for block in torch.nonzero(relevant.degrees)[:, 0].split(BLOCK):
        items = rank(block, min(k, num_items))
        rows, wanted = relevant.rows(block).to(items.device).pairs()
        place = torch.arange(len(block), device=items.device)[:, None] * num_items + items
        yield items, (items >= 0) & _contains(rows * num_items + wanted, place)


def _contains(sorted_keys: Tensor, wanted: Tensor) -> Tensor:
    place = torch.searchsorted(sorted_keys, wanted).clamp_(max=len(sorted_keys) - 1)
    return sorted_keys[place] == wanted


def popularity(graph: BipartiteGraph, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """The popularity ranker as points, so that it runs through the same code.

    Every user sits at the origin and the item of rank r (0 is the most frequent in the graph, ties
    by the smaller id) at distance r/I from it; points are (·, 2) float64, c = 1.
    """
    counts = team_of(graph).by_item(graph.degrees[graph.num_users :]).cpu().numpy()
    num_items = len(counts)
    radius = np.empty(num_items)
    radius[np.argsort(-counts, kind="stable")] = np.arange(num_items) / num_items
    users = torch.zeros(graph.num_users, 2, dtype=torch.float64, device=device)
    items = torch.from_numpy(np.stack([np.zeros(num_items), radius], 1)).to(device)
    return ops.expmap0(users), ops.expmap0(items)


def evaluate_split(model: HDRM, dataset: Dataset, split: str) -> dict[str, dict[str, float]]:
    """Metrics on "valid" or "test" of popularity, the encoder alone (ω = 0) and the model.

    Training items are not ranked; on the test split neither are validation items.
    """
    device, team, omega = model.omega.device, team_of(model.graph), float(model.omega)

    def measured(points: tuple[Tensor, Tensor], c: float = 1.0) -> dict[str, float]:
        return evaluate(points, *task(dataset, split), c=c, gathered=team.gathered)

    popular = measured(popularity(dataset.graph, device))
    with torch.no_grad():
        if omega:
            h, z = model.generate(first=team.users.start)
        else:
            h, z = model.encoder(model.graph), None
        h = team.with_all_items(h)
        found = [
            measured(model.mix(h, z, weight), model.config.curvature) for weight in (0.0, omega)
        ]
    return {"popularity": popular, "encoder": found[0], "hdrm": found[1]}
