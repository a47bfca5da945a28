"""What HDRM's authors compute, written again in plain torch from the model's description.

The maps and distances are :class:`hdrm.accuracy.peers.Authors`; here is the rest: aggregation with a
COO matrix, noise, loss, sampling and ranking in Python. c = 1.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from hdrm.accuracy.peers import Authors

C = 1.0


def propagate(x: Tensor, matrix: Tensor, num_layers: int) -> Tensor:
    """logmap0, rounds of a sparse product, and their sum."""
    h = Authors.logmap0(x, C)
    total = torch.zeros_like(h)
    for _ in range(num_layers):
        h = torch.sparse.mm(matrix, h)
        total = total + h
    return total


def directional_noise(z0: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """√ᾱ·z0 + √(1−ᾱ)·(μ + σ ⊙ sgn(z0) ⊙ |ε|), ε by torch.randn; the time column stays 0."""
    level = alpha_bar[t].to(z0.dtype)[:, None]
    noise = torch.sign(z0) * torch.randn_like(z0).abs()
    noise = z0.mean(0) + z0.std(0) * noise
    return level.sqrt() * z0 + (1 - level).sqrt() * noise


def isotropic_noise(z0: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    level = alpha_bar[t].to(z0.dtype)[:, None]
    return level.sqrt() * z0 + (1 - level).sqrt() * torch.randn_like(z0)


def margin_ranking_loss(u: Tensor, pos: Tensor, neg: Tensor, margin: float) -> Tensor:
    """Each tangent vector onto the hyperboloid, squared distances, hinge, mean."""
    x, y, z = (Authors.expmap0(row, C) for row in (u, pos, neg))
    gap = Authors.sqdist(x, y, C) - Authors.sqdist(x, z, C)
    return torch.clamp(gap + margin, min=0).mean()


def sample_negatives(users: list[int], seen: list[set[int]], num_items: int) -> list[int]:
    """One unseen item per user: draw until it is unseen."""
    drawn = []
    for user in users:
        item = random.randrange(num_items)
        while item in seen[user]:
            item = random.randrange(num_items)
        drawn.append(item)
    return drawn


def rank(users: Tensor, items: Tensor, seen: list[list[int]], k: int) -> np.ndarray:
    """The k nearest unseen items: for each user distances to all, in float64 on the host."""
    ranked = np.empty((len(users), k), dtype=np.int64)
    for user, row in enumerate(users):
        distances = Authors.sqdist(row.expand_as(items), items, C)
        distances = distances.cpu().numpy().astype(np.float64)
        distances[seen[user]] = np.inf
        ranked[user] = np.argsort(distances)[:k]
    return ranked
