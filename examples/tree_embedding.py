"""A tree in few dimensions: hyperbolic against Euclidean, by how well links are found again.

Every node draws its neighbours near and pushes others away (Nickel & Kiela, NeurIPS 2017). Then each
node ranks all others by distance; the score is the mean average precision of its neighbours.
"""

from __future__ import annotations

import geoopt
import torch
import torch.nn.functional as F

from hdrm import Lorentz, ops, optim

BRANCHING, DEPTH = 3, 4  # 121 nodes
DIM = 2  # of the space; a point has a coordinate more
NEGATIVES, STEPS, LR = 20, 400, 0.1


def tree() -> torch.Tensor:
    """Edges (n, 2), int64: node k's children are 3k + 1 … 3k + 3."""
    nodes = sum(BRANCHING**level for level in range(DEPTH + 1))
    child = torch.arange(1, nodes)
    return torch.stack([(child - 1) // BRANCHING, child], 1)


def embed(edges: torch.Tensor, hyperbolic: bool) -> torch.Tensor:
    """Distances of all pairs (nodes, nodes) in the embedding."""
    torch.manual_seed(0)
    nodes = len(edges) + 1
    start = F.pad(0.01 * torch.randn(nodes, DIM), (1, 0))  # tangent vectors at the origin
    if hyperbolic:
        points = geoopt.ManifoldParameter(ops.expmap0(start), manifold=Lorentz())
        distance = ops.distance
    else:
        points = torch.nn.Parameter(start[:, 1:])
        distance = _euclidean
    optimizer = optim.RiemannianAdam([points], lr=LR)
    both = torch.cat([edges, edges.flip(1)])
    linked = torch.eye(nodes, dtype=torch.bool)
    linked[both[:, 0], both[:, 1]] = True
    for _ in range(STEPS):
        optimizer.zero_grad()
        others = torch.randint(nodes, (len(both), NEGATIVES))
        candidates = torch.cat([both[:, 1:], others], 1)
        scores = -distance(points[both[:, :1]], points[candidates])
        scores[:, 1:].masked_fill_(linked[both[:, :1], others], -torch.inf)
        F.cross_entropy(scores, torch.zeros(len(both), dtype=torch.int64)).backward()
        optimizer.step()
    with torch.no_grad():
        return distance(points[:, None], points[None])


def _euclidean(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x - y).norm(dim=-1)


def mean_average_precision(distances: torch.Tensor, edges: torch.Tensor) -> float:
    """Over nodes, of the ranking of all others."""
    nodes = len(distances)
    linked = torch.zeros(nodes, nodes)
    linked[edges[:, 0], edges[:, 1]] = linked[edges[:, 1], edges[:, 0]] = 1
    order = distances.fill_diagonal_(torch.inf).argsort(1)
    hits = linked.gather(1, order)
    precision = hits.cumsum(1) / torch.arange(1, nodes + 1)
    return ((precision * hits).sum(1) / hits.sum(1)).mean().item()


def main() -> dict[str, float]:
    edges, found = tree(), {}
    for name in ("hyperbolic", "euclidean"):
        distances = embed(edges, name == "hyperbolic")
        found[name] = mean_average_precision(distances, edges)
        print(f"{name}, {DIM} dimensions: mean average precision {found[name]:.3f}")
    return found


if __name__ == "__main__":
    main()
