"""Exact top-k over all items, and the hinge loss: hdrm, torch's matrix product, geoopt."""

from __future__ import annotations

import geoopt
import pytest
import torch
from harness import OURS, WIDTH, normal, reference, tangent_rows, with_backward

from hdrm import ops

USERS, ITEMS = (ops.expmap0(tangent_rows(n, WIDTH, n)) for n in (6_000, 3_000))
BATCH = 20_000
U, POS, NEG = (tangent_rows(BATCH, WIDTH, seed) for seed in range(3))
GEOOPT = geoopt.Lorentz()


def matmul_topk():
    """x0·y0 − xs·ys for all pairs, then torch.topk: the U×I matrix in memory."""
    flipped = torch.cat([USERS[:, :1], -USERS[:, 1:]], 1)
    return torch.acosh(torch.topk(flipped @ ITEMS.T, 20, largest=False).values.clamp(min=1))


@pytest.mark.parametrize("peer", [*OURS, "torch matmul + topk"])
def test_topk(timed, peer):
    run = (lambda: ops.topk(USERS, ITEMS, 20)[0]) if peer in OURS else matmul_topk
    expected = ops.topk(USERS.double(), ITEMS.double(), 20)[0]
    group = "top-20 of 3,000 items for 6,000 users"
    timed(group, peer, run, expected, (USERS.numel() + ITEMS.numel()) * 4)


def geoopt_hinge(u, pos, neg):
    x, y, z = (GEOOPT.expmap0(row) for row in (u, pos, neg))
    return torch.relu(GEOOPT.dist(x, y) ** 2 - GEOOPT.dist(x, z) ** 2 + 0.1).mean()


@pytest.mark.parametrize("peer", [*OURS, "geoopt"])
def test_hinge(timed, peer):
    def ours(u, pos, neg):
        return ops.margin_ranking_loss(u, pos, neg, 0.1)

    run = with_backward(ours if peer in OURS else geoopt_hinge, U, POS, NEG)
    inputs = [tensor.double().requires_grad_() for tensor in (U, POS, NEG)]
    weight = normal(seed=1).double()
    expected = torch.autograd.grad(reference(ours, *inputs), inputs, weight)[0]
    group = f"hinge {BATCH}x{WIDTH} forward+backward"
    timed(group, peer, run, expected, 9 * U.numel() * 4, tolerance=1e-2)
