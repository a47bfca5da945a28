"""What HDRM's authors compute, written again in plain torch from the model's description.

The maps and distances are :class:`hdrm.accuracy.peers.Authors`; here is the rest: aggregation with a
COO matrix, noise, loss, sampling and ranking in Python. c = 1.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hdrm.accuracy.peers import Authors
from hdrm.model.denoiser import time_embedding

C = 1.0
OMEGA = 0.05  # weight of the prediction, in training too


def propagate(x: Tensor, matrix: Tensor, num_layers: int) -> Tensor:
    """logmap0, rounds of a product with a sparse matrix, and their sum."""
    h = Authors.logmap0(x, C)
    total = torch.zeros_like(h)
    for _ in range(num_layers):
        h = matrix @ h
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


def encode(tables: Sequence[Tensor], matrix: Tensor, num_layers: int) -> Tensor:
    """As their model calls it: tables of users and of items, projected first; all rounds are kept."""
    rounds = [torch.cat([Authors.logmap0(Authors.project(x, C), C) for x in tables])]
    for _ in range(num_layers):
        rounds.append(matrix @ rounds[-1])
    return sum(rounds[1:])


def points(u: Tensor) -> Tensor:
    return Authors.project(Authors.expmap0(u, C), C)


class Denoiser(nn.Module):
    """Their network, layer by layer, on the concatenated inputs."""

    def __init__(self, dim: int, hidden: Sequence[int], time_width: int = 10) -> None:
        super().__init__()
        widths = [2 * dim + time_width, *hidden, dim]
        self.time = nn.Linear(time_width, time_width)
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.drop = nn.Dropout(0.5)

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        time = self.time(time_embedding(t, self.time.in_features))
        h = torch.cat([self.drop(z_t), time, condition], -1)
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        return self.layers[-1](h)


def diffusion_loss(
    h: Tensor,
    num_users: int,
    ids: Sequence[Tensor],
    denoisers: Sequence[nn.Module],
    alpha_bar: Tensor,
    *,
    margin: float,
    reconstruction: float,
) -> Tensor:
    """The loss of a batch of (user, item, unseen item), rows of h.

    Noise to one step t per row, each denoiser conditioned on the other's clean vector, its output
    mixed in with weight ω, ranking loss and reconstruction of the mixed vectors. Negatives are taken
    from the points of all items.
    """
    users, items = h.split([num_users, len(h) - num_users])
    user, positive = users[ids[0]], items[ids[1] - num_users]
    t = torch.randint(0, len(alpha_bar), (len(user),), device=h.device)
    mixed, error = [], 0
    for denoiser, z0, known in zip(denoisers, (user, positive), (positive, user)):
        z_t = directional_noise(z0, t, alpha_bar)
        mixed.append((1 - OMEGA) * z0 + OMEGA * denoiser(z_t, t, known))
        error = error + (z0 - mixed[-1]).square().mean()
    x, y = (points(u) for u in mixed)
    z = points(items)[ids[2] - num_users]
    gap = Authors.sqdist(x, y, C) - Authors.sqdist(x, z, C)
    rank = torch.clamp(gap + margin, min=0).mean()
    return (1 - reconstruction) * rank + reconstruction * error


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
