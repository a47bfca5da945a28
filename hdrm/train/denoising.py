"""The encoder trained on interactions that its graph does not have."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from ..config import Config
from ..data.sampling import shuffled
from ..graph import BipartiteGraph
from ..model import HDRM
from ..seeds import derive_seed, uniform
from .table_steps import FullStep
from .unseen_softmax import unseen_softmax_loss


class DenoisingStage:
    """Stage 1 with loss = "softmax": what is left of the graph ranks what was taken out of it.

    A step hides a share ``edge_dropout`` of all interactions. Over the others h is propagated; the
    hidden ones of the step's users are the positives of :func:`unseen_softmax_loss`, so that no vector
    contains a trace of the item to be ranked, as at inference. An epoch meets every user once.

    Every positive weighs the same (pairs = "interactions"), or every user (pairs = "users").

    Source of the hidden interactions: Liang et al., *Variational autoencoders for collaborative
    filtering*, WWW 2018, where they are hidden from the user's side alone.
    """

    name = "encoder"
    omegas = (0.0,)

    def __init__(self, model: HDRM, config: Config) -> None:
        self._model, self._config = model, config
        self.epochs = config.encoder_epochs
        self._make = FullStep(model, config)
        self.averaged = self._make.averaged
        self.steps_per_epoch = -(-model.num_users // config.softmax_users)
        seen = model.graph.user_items
        ids = torch.arange(model.num_users, device=seen.device)
        self._users = torch.repeat_interleave(ids, seen.degrees)
        self._items = seen.col[: seen.nnz].long() - seen.offset

    def begin_epoch(self, epoch: int) -> None:
        pass

    def step(self, step: int) -> float:
        """Move the table by one batch of users; its loss."""
        model, config = self._model, self._config
        epoch, position = divmod(step, self.steps_per_epoch)
        place = torch.arange(model.num_users)[position * config.softmax_users :]
        seed = derive_seed("users", config.seed, epoch)
        users = shuffled(place[: config.softmax_users], model.num_users, seed)
        users = users.sort().values.to(self._users.device)
        counter = torch.arange(len(self._users), device=self._users.device)
        hidden = uniform(derive_seed("hidden", config.seed, step), counter) < config.edge_dropout
        weights = self._weights(users, hidden)
        rest = BipartiteGraph.from_interactions(
            self._users[~hidden], self._items[~hidden], model.num_users, model.num_items
        ).to(self._users.device)
        parts = [(part,) for part in users.chunk(config.micro_batches)]

        def loss(h: Tensor, part: Tensor) -> Tensor:
            return self._loss(h, part, hidden, weights)

        return self._make(parts, loss, graph=rest)

    def _weights(self, users: Tensor, hidden: Tensor) -> Tensor:
        """w of all users (U,), such that those of the positives of ``users`` sum to 1."""
        count = torch.bincount(self._users[hidden], minlength=self._model.num_users)
        if self._config.pairs == "users":
            with_positives = (count[users] > 0).sum().clamp(min=1)
            return 1.0 / (with_positives * count.clamp(min=1))
        return (1.0 / count[users].sum().clamp(min=1)).expand(self._model.num_users)

    def _loss(self, h: Tensor, users: Tensor, hidden: Tensor, weights: Tensor) -> Tensor:
        config, seen = self._config, self._model.graph.user_items
        first, length = seen.rowptr[users], seen.degrees[users]
        row = torch.repeat_interleave(length)
        entry = torch.arange(len(row), device=row.device) - (length.cumsum(0) - length)[row]
        entry += first[row]
        item, positive = self._items[entry], hidden[entry]
        return unseen_softmax_loss(
            ops.expmap0(h[users], c=config.curvature),
            ops.expmap0(h[self._model.num_users :], c=config.curvature),
            (row[positive], item[positive]),
            (row, item),
            config.temperature,
            weights=weights[users].to(h.dtype),
            c=config.curvature,
        )
