"""Euclidean rankers to stand beside: EASE and LightGCN, each chosen on validation.

    python -m hdrm.baselines ml-1m_clean

prints the test metrics of both, as :mod:`hdrm.train.evaluate` defines them.

Sources: Steck, *Embarrassingly shallow autoencoders for sparse data*, WWW 2019; He et al., *LightGCN*,
SIGIR 2020.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .data import Dataset, load
from .graph import CSR, BipartiteGraph
from .seeds import derive_seed
from .train.batches import Batches
from .train.evaluate import evaluate_ranking
from .train.trainer import CRITERION

# λ of EASE tried on the validation set.
REGULARISATIONS = (200, 500, 1000, 2000, 3000, 5000, 8000, 12_000, 20_000, 30_000)
METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")  # printed
PATIENCE = 5  # validations of LightGCN without a gain until it stops

Scores = Callable[[Tensor], Tensor]  # ids of users (B,) → scores of all items (B, I)


def ease(train: CSR, regularisation: float) -> Scores:
    """Scores X·B of interactions X (U × I) with B = argmin ‖X − XB‖² + λ‖B‖², diag B = 0.

    B_ij = −P_ij/P_jj off the diagonal, P = (XᵀX + λI)⁻¹. Solved in float64: O(I³) time and O(I²)
    memory.
    """
    x = torch.zeros(train.num_rows, train.num_cols)
    x[train.pairs()] = 1
    gram = (x.T @ x).double()
    gram.diagonal().add_(regularisation)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weights = -inverse / inverse.diagonal()
    weights.fill_diagonal_(0)
    weights = weights.float()
    return lambda users: x[users] @ weights


def lightgcn(
    graph: BipartiteGraph,
    *,
    dim: int = 64,
    layers: int = 3,
    epochs: int = 1000,
    every: int = 10,
    batch: int = 8192,
    lr: float = 5e-3,
    decay: float = 1e-4,
    seed: int = 0,
) -> Iterator[tuple[int, Scores]]:
    """Yields (epoch, the scores u·i) every some epochs; h = mean of Âˡ·table, l = 0 … L, Â symmetric.

    loss = mean of −log σ(u·i⁺ − u·i⁻) + λ/2·(‖rows of the table‖²), one i⁻ drawn of the unseen; Adam.
    Batch and lr are larger than published (2048, 10⁻³), with which it needs many times the epochs.
    """
    generator = torch.Generator().manual_seed(seed)
    table = torch.empty(graph.num_nodes, dim + 1)  # the ops' time column stays 0
    table.normal_(0, 0.1, generator=generator)[:, 0] = 0
    table.requires_grad_()
    optimizer = torch.optim.Adam([table], lr=lr)
    seen = graph.user_items
    batches = Batches(seen, seen, batch, 1, derive_seed("lightgcn", seed), by_user=False)
    propagation = {"space": "tangent", "normalization": "symmetric", "combine": "mean"}
    for epoch in range(1, epochs + 1):
        for position in range(batches.steps_per_epoch):
            users, pos, neg = batches.batch((epoch - 1) * batches.steps_per_epoch + position)
            ids = torch.stack([users, pos + graph.num_users, neg[:, 0] + graph.num_users])
            u, i, j = F.embedding(ids, ops.propagate(table, graph, layers, **propagation))
            loss = F.softplus((u * (j - i)).sum(1)).mean()
            loss = loss + decay / 2 * F.embedding(ids, table).square().sum() / len(users)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % every == 0:
            with torch.no_grad():
                h = ops.propagate(table, graph, layers, **propagation)
            yield epoch, _products(*h.split([graph.num_users, graph.num_items]))


def _products(users: Tensor, items: Tensor) -> Scores:
    return lambda ids: users[ids] @ items.T


def evaluate_scores(
    scores: Scores, relevant: CSR, *exclude: CSR, cutoffs: Sequence[int] = (10, 20)
) -> dict[str, float]:
    """As :func:`hdrm.train.evaluate.evaluate`, of a ranker that is not a distance."""

    def rank(users: Tensor, k: int) -> Tensor:
        left = scores(users)
        for seen in exclude:
            left[seen.rows(users).pairs()] = -torch.inf
        found = left.topk(k, 1)
        return found.indices.masked_fill_(found.values == -torch.inf, -1)

    return evaluate_ranking(rank, relevant, cutoffs)


def chosen(
    candidates: Iterator[tuple[object, Scores]], dataset: Dataset, patience: float = math.inf
) -> tuple[object, dict[str, float], dict[str, float]]:
    """The candidate of the best validation Recall@20: its name, its validation and test metrics.

    After so many in a row that are no better (``patience``) no other is asked for.
    """
    best, worse = None, 0
    for name, scores in candidates:
        valid = evaluate_scores(scores, dataset.valid, dataset.train)
        if best is None or valid[CRITERION] > best[1][CRITERION]:
            best, worse = (name, valid, scores), 0
        else:
            worse += 1
        if worse >= patience:
            break
    if best is None:
        raise ValueError("there is no candidate to choose from")
    name, valid, scores = best
    return name, valid, evaluate_scores(scores, dataset.test, dataset.train, dataset.valid)


def main(name: str) -> None:
    dataset = load(name)
    strengths = ((strength, ease(dataset.train, strength)) for strength in REGULARISATIONS)
    rankers = {
        "EASE, λ": (strengths, math.inf),
        "LightGCN, epoch": (lightgcn(dataset.graph), PATIENCE),
    }
    for ranker, (candidates, patience) in rankers.items():
        which, valid, test = chosen(candidates, dataset, patience)
        for split, metrics in (("valid", valid), ("test", test)):
            shown = "  ".join(f"{m} {metrics[m]:.4f}" for m in METRICS)
            print(f"{ranker} = {which}: {split:5} {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
