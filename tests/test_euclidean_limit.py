"""Curvature 1e-6 is Euclidean space to float32's rounding: one code ranks in either.

Vectors have the norm of propagated ones, about 1; the radius of the space is 1,000. With dim 64 the
time column leaves 63 Euclidean coordinates.
"""

import geoopt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hdrm import BipartiteGraph, Lorentz, ops, optim

C = 1e-6
USERS, ITEMS = 300, 200


def vectors(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.pad(0.13 * torch.randn(count, 63, generator=generator), (1, 0))


def close(found: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    """Relative to the largest number expected."""
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected.double(), rtol=0, atol=tolerance * scale)


def test_maps_at_the_origin_are_the_identity():
    u = vectors(USERS, 0)
    x = ops.expmap0(u, c=C)
    close(x[:, 1:], u[:, 1:])
    close(ops.logmap0(x, c=C), u)


def test_distances_are_euclidean_and_so_is_the_ranking():
    u, v = vectors(USERS, 0), vectors(ITEMS, 1)
    x, y = ops.expmap0(u, c=C), ops.expmap0(v, c=C)
    expected = torch.cdist(u.double(), v.double())
    close(ops.sqdist0(u[:ITEMS], v, c=C), expected.diagonal() ** 2)
    close(ops.distance(x[:ITEMS], y, c=C), expected.diagonal())
    near, ids = expected.topk(20, largest=False)
    distances, items = ops.topk(x, y, 20, c=C)
    assert torch.equal(items, ids)
    close(distances, near)


def test_the_ranking_loss_and_its_gradient_are_euclidean():
    leaves = [vectors(ITEMS, seed).requires_grad_() for seed in range(3)]
    ops.margin_ranking_loss(*leaves, 0.5, c=C).backward()
    double = [leaf.detach().double().requires_grad_() for leaf in leaves]
    u, pos, neg = double
    gap = (u - pos).square().sum(1) - (u - neg).square().sum(1)
    torch.relu(gap + 0.5).mean().backward()
    for leaf, expected in zip(leaves, double):
        close(leaf.grad, expected.grad)


def test_propagation_is_a_sum_of_means():
    generator = torch.Generator().manual_seed(0)
    ids = (torch.randint(size, (3_000,), generator=generator) for size in (USERS, ITEMS))
    graph = BipartiteGraph.from_interactions(*ids, USERS, ITEMS)
    u = vectors(USERS + ITEMS, 0)
    matrix = torch.eye(USERS + ITEMS, dtype=torch.float64)
    user, item = graph.user_items.pairs()
    matrix[user, USERS + item] = matrix[USERS + item, user] = 1
    matrix /= matrix.sum(1, keepdim=True)
    expected = sum(torch.linalg.matrix_power(matrix, n) for n in (1, 2, 3)) @ u.double()
    close(ops.propagate(ops.expmap0(u, c=C), graph, 3, c=C), expected)


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_steps_of_the_optimiser_are_those_of_sgd(decay):
    """geoopt's order: momentum starts as the first gradient, without decay; decay counts twice."""
    u = vectors(USERS, 0)
    points = geoopt.ManifoldParameter(ops.expmap0(u, c=C), manifold=Lorentz(1 / C))
    optimizer = optim.RiemannianSGD([points], lr=0.01, momentum=0.9, weight_decay=decay)
    x, momentum = u[:, 1:].double(), None
    for step in range(20):
        push = vectors(USERS, 1 + step)
        points.grad = push.clone()
        optimizer.step()
        push = push[:, 1:].double()
        momentum = 0.9 * (push if momentum is None else momentum) + push + 2 * decay * x
        x = x - 0.01 * momentum
    close(points.detach()[:, 1:], x)
