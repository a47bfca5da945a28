"""Interactions that a step takes out of the graph, to be ranked by what is left of it.

Source: Liang et al., *Variational autoencoders for collaborative filtering*, WWW 2018, where they are
hidden from the user's side alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..config import Config
from ..data.sampling import shuffled
from ..graph import BipartiteGraph
from ..model import HDRM
from ..seeds import derive_seed, pair_bits
from .team import team_of
from .unseen_softmax import Pairs, unseen_softmax_loss


@dataclass(frozen=True, eq=False)
class Task:
    """Some users of a step: what is hidden of theirs, and what must not count as unseen.

    users: ids int64 (B,), of this process; positives, seen: pairs of a position in ``users`` and an
    item; weights: (B,). They are users ``first`` … of the ``of`` users that all processes take.
    """

    first: int
    of: int
    users: Tensor
    positives: Pairs
    seen: Pairs
    weights: Tensor

    def loss(self, users: Tensor, items: Tensor, config: Config) -> Tensor:
        """unseen_softmax_loss of tangent vectors at the origin of the users (B, dim) and all items."""
        return unseen_softmax_loss(
            ops.expmap0(users, c=config.curvature),
            ops.expmap0(items, c=config.curvature),
            self.positives,
            self.seen,
            config.temperature,
            weights=self.weights.to(users.dtype),
            c=config.curvature,
        )


class HiddenInteractions:
    """A step hides a share ``edge_dropout`` of all interactions, by a hash of each.

    Every epoch meets every user once, ``softmax_users`` a step, in an order of its own. Every positive
    weighs the same (pairs = "interactions"), or every user (pairs = "users").

    Args:
        model: with its graph.
        config: the settings.
        stage: whose steps they are; stages hide and order differently.
    """

    def __init__(self, model: HDRM, config: Config, stage: str) -> None:
        self._model, self._config, self._stage = model, config, stage
        self._team = team_of(model.graph)
        self.steps_per_epoch = -(-self._team.num_users // config.softmax_users)

    def take(self, step: int) -> tuple[BipartiteGraph, list[Task]]:
        """What is left of the graph, and the tasks of a step: as many as there are micro_batches."""
        graph, config, team = self._model.graph, self._config, self._team
        key = derive_seed("hidden", self._stage, config.seed, step)

        def hidden(users: Tensor, items: Tensor) -> Tensor:
            return pair_bits(key, users, items, team.num_items) < config.edge_dropout * 2**32

        parts, counts = [], []
        for whole in self._users(step).chunk(config.micro_batches):
            own = team.slice_of(whole)
            users = whole[own]
            row, item = graph.user_items.rows(team.local(users)).pairs()
            positive = hidden(users[row], item)
            pairs = (row[positive], item[positive]), (row, item)
            parts.append((own.start, len(whole), users, *pairs))
            counts.append(torch.bincount(row[positive], minlength=len(users)))
        tasks = [Task(*part, weights) for part, weights in zip(parts, self._weights(counts))]
        return graph.where(lambda users, items: ~hidden(users, items)), tasks

    def _users(self, step: int) -> Tensor:
        """The users of a step, int64 (B,), ascending: the next ones of the epoch's order."""
        size, num_users = self._config.softmax_users, self._team.num_users
        epoch, position = divmod(step, self.steps_per_epoch)
        place = torch.arange(position * size, min((position + 1) * size, num_users))
        order = derive_seed("users", self._stage, self._config.seed, epoch)
        return shuffled(place, num_users, order).sort().values.to(self._model.graph.device)

    def _weights(self, counts: Sequence[Tensor]) -> list[Tensor]:
        """w of each part's users, such that those of all positives, counted by user, sum to 1."""
        by_user = self._config.pairs == "users"
        total = sum((count > 0).sum() if by_user else count.sum() for count in counts)
        total = int(self._team.total(total))
        whole = 1 / max(total, 1)
        return [whole / count.clamp(min=1) if by_user else whole * (count > 0) for count in counts]
