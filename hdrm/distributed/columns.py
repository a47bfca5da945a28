"""Whole rows of a process against some columns of all rows of its row group."""

from __future__ import annotations

import torch
from torch import Tensor

from .cuts import Cuts
from .world import World


class Columns:
    """Between the own users and items, in whole rows, and those of the group, in own columns.

    Propagation treats columns alike, so that C processes can share the rounds of one group: each takes
    a slice of the columns. Maps, losses and optimiser steps need whole rows, and share the rows. Once
    before the rounds and once behind them everyone in the group gives everyone else what is theirs.

    A slice has a first column of its own in place of the time coordinate, which propagation ignores.
    """

    def __init__(self, world: World, cuts: Cuts) -> None:
        self._world = world
        first = world.row * world.cols
        members = range(first, first + world.cols)
        self._users = [len(cuts.of_users(p)) for p in members]
        self._items = [len(cuts.of_items(p)) for p in members]
        self._nodes = [u + i for u, i in zip(self._users, self._items)]

    def spread(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Own columns of the group's users and of its items, from own rows (n, d+1)."""
        if self._world.cols == 1:
            return h[: self._users[0]], h[self._users[0] :]
        bounds, me = self._bounds(h), self._world.col
        width = bounds[me + 1] - bounds[me]
        send = torch.cat([h[:, a:b].reshape(-1) for a, b in zip(bounds, bounds[1:])])
        taken = self._world.exchange(
            send,
            [len(h) * (b - a) for a, b in zip(bounds, bounds[1:])],
            [n * width for n in self._nodes],
            self._world.of_row,
            label="columns",
        )
        users = h.new_zeros(sum(self._users), width + 1)
        items = h.new_zeros(sum(self._items), width + 1)
        parts = taken.view(-1, width).split(self._nodes)
        torch.cat([part[:u] for part, u in zip(parts, self._users)], out=users[:, 1:])
        torch.cat([part[u:] for part, u in zip(parts, self._users)], out=items[:, 1:])
        return users, items

    def collect(self, users: Tensor, items: Tensor, dim: int) -> Tensor:
        """Own rows (n, dim) from own columns of the group's users and items; time is 0."""
        if self._world.cols == 1:
            return torch.cat([users, items])
        rows = zip(users[:, 1:].split(self._users), items[:, 1:].split(self._items))
        send = torch.cat([part.reshape(-1) for pair in rows for part in pair])
        own = self._nodes[self._world.col]
        h = users.new_zeros(own, dim)
        bounds = self._bounds(h)
        widths = [b - a for a, b in zip(bounds, bounds[1:])]
        taken = self._world.exchange(
            send,
            [n * (users.shape[1] - 1) for n in self._nodes],
            [own * width for width in widths],
            self._world.of_row,
            label="columns",
        )
        for part, a, b in zip(taken.split([own * width for width in widths]), bounds, bounds[1:]):
            h[:, a:b] = part.view(own, b - a)
        return h

    def _bounds(self, h: Tensor) -> list[int]:
        """The first column of each slice; those of space alone."""
        space, count = h.shape[1] - 1, self._world.cols
        return [1 + space * part // count for part in range(count + 1)]
