"""The encoder trained on interactions that its graph does not have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .. import ops
from ..config import Config
from ..data.sampling import shuffled
from ..model import HDRM
from ..seeds import derive_seed, pair_bits
from .stage import State
from .table_steps import whole_step
from .unseen_softmax import Pairs, unseen_softmax_loss


class DenoisingStage:
    """Stage 1 with loss = "softmax": what is left of the graph ranks what was taken out of it.

    A step hides a share ``edge_dropout`` of all interactions, by a hash of each. Over the others h is
    propagated; the hidden ones of the step's users are the positives of :func:`unseen_softmax_loss`,
    so that no vector contains a trace of the item to be ranked, as at inference. An epoch meets every
    user once.

    Every positive weighs the same (pairs = "interactions"), or every user (pairs = "users").

    Source of the hidden interactions: Liang et al., *Variational autoencoders for collaborative
    filtering*, WWW 2018, where they are hidden from the user's side alone.
    """

    name = "encoder"
    omegas = (0.0,)

    def __init__(self, model: HDRM, config: Config) -> None:
        self._model, self._config = model, config
        self.epochs = config.encoder_epochs
        self._make = whole_step(model, config)
        self.averaged = self._make.averaged
        self.steps_per_epoch = -(-model.num_users // config.softmax_users)

    def begin_epoch(self, epoch: int) -> None:
        pass

    def step(self, step: int) -> float:
        """Move the table by one batch of users; its loss."""
        model, config = self._model, self._config
        key = derive_seed("hidden", config.seed, step)

        def hidden(users: Tensor, items: Tensor) -> Tensor:
            return pair_bits(key, users, items, model.num_items) < config.edge_dropout * 2**32

        rest = model.graph.where(lambda users, items: ~hidden(users, items))
        parts, counts = [], []
        for users in self._users(step).chunk(config.micro_batches):
            row, item = model.graph.user_items.rows(users).pairs()
            positive = hidden(users[row], item)
            parts.append((users, (row[positive], item[positive]), (row, item)))
            counts.append(torch.bincount(row[positive], minlength=len(users)))
        weights = self._weights(counts)
        losses = [partial(self._loss, *part, of) for part, of in zip(parts, weights)]
        return self._make.descend(rest, losses)

    def state_dict(self) -> State:
        return self._make.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._make.load_state_dict(state)

    def _users(self, step: int) -> Tensor:
        """The users of a step, int64 (B,): the next ones of an order that every epoch has anew."""
        model, size = self._model, self._config.softmax_users
        epoch, position = divmod(step, self.steps_per_epoch)
        place = torch.arange(position * size, min((position + 1) * size, model.num_users))
        users = shuffled(place, model.num_users, derive_seed("users", self._config.seed, epoch))
        return users.sort().values.to(model.graph.device)

    def _weights(self, counts: Sequence[Tensor]) -> list[Tensor]:
        """w of each part's users, such that those of all positives, counted by user, sum to 1."""
        by_user = self._config.pairs == "users"
        total = sum(int((count > 0).sum() if by_user else count.sum()) for count in counts)
        whole = 1 / max(total, 1)
        return [whole / count.clamp(min=1) if by_user else whole * (count > 0) for count in counts]

    def _loss(
        self, users: Tensor, positives: Pairs, seen: Pairs, weights: Tensor, h: Tensor
    ) -> Tensor:
        config = self._config
        return unseen_softmax_loss(
            ops.expmap0(h[users], c=config.curvature),
            ops.expmap0(h[self._model.num_users :], c=config.curvature),
            positives,
            seen,
            config.temperature,
            weights=weights.to(h.dtype),
            c=config.curvature,
        )
