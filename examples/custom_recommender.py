"""A recommender of one's own on the kernels: a table of points, propagation, hinge loss, full ranking.

This is HGCF (Sun et al., WWW 2021) in fifty lines. What is propagated, how negatives are drawn and
what the loss is can be exchanged one by one.
"""

from __future__ import annotations

import geoopt
import torch
import torch.nn.functional as F

from hdrm import Lorentz, ops, optim
from hdrm.data import load
from hdrm.train import evaluate, popularity

DIM, LAYERS, EPOCHS, BATCH = 32, 2, 6, 4_000


def main() -> dict[str, float]:
    torch.manual_seed(0)
    dataset = load("demo")
    graph = dataset.graph  # users are nodes 0 … U − 1, items follow
    start = F.pad(torch.empty(graph.num_nodes, DIM).uniform_(-0.1, 0.1), (1, 0))
    table = geoopt.ManifoldParameter(ops.expmap0(start), manifold=Lorentz())
    optimizer = optim.RiemannianSGD([table], lr=3e-3, momentum=0.95, weight_decay=5e-3)
    users, positives = dataset.train.pairs()
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(users)).split(BATCH):
            u, p = users[batch], positives[batch]
            n = ops.sample_negatives(u, dataset.train)[:, 0]  # not among the user's items
            h = ops.propagate(table, graph, LAYERS)  # tangent vectors at the origin
            loss = ops.margin_ranking_loss(
                h[u], h[graph.num_users + p], h[graph.num_users + n], margin=0.1, reduction="sum"
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(users):.4f}")
    with torch.no_grad():
        points = ops.expmap0(ops.propagate(table, graph, LAYERS))
    rankers = {
        "popularity": popularity(graph),
        "ours": (points[: graph.num_users], points[graph.num_users :]),
    }
    found = {}
    for name, ranker in rankers.items():
        metrics = evaluate(ranker, dataset.test, dataset.train, dataset.valid, cutoffs=(20,))
        found[name] = metrics["ndcg@20"]
        print(f"{name}: NDCG@20 {found[name]:.4f}")
    return found


if __name__ == "__main__":
    main()
