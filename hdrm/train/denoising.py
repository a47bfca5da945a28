"""Both stages with loss = "softmax": what is left of the graph ranks what was taken out of it.

No vector contains a trace of the item to be ranked, as at inference: over the rest of the graph h is
propagated, and each hidden interaction of the step's users is ranked against all items they have not
seen (:mod:`hdrm.train.unseen_softmax`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..model import HDRM
from ..seeds import derive_seed
from .hidden import HiddenInteractions, Task
from .stage import State
from .stages import DenoiserStage
from .table_steps import whole_step
from .team import team_of


class DenoisingStage:
    """Stage 1: the table."""

    name = "encoder"
    omegas = (0.0,)

    def __init__(self, model: HDRM, config: Config) -> None:
        self._config, self._team = config, team_of(model.graph)
        self.epochs = config.encoder_epochs
        self._make = whole_step(model, config)
        self.averaged = self._make.averaged
        self._hidden = HiddenInteractions(model, config, self.name)
        self.steps_per_epoch = self._hidden.steps_per_epoch
        self.examples = self._team.num_users

    def begin_epoch(self, epoch: int) -> None:
        pass

    def step(self, step: int) -> float:
        """Move the table by one batch of users; its loss."""
        rest, tasks = self._hidden.take(step)
        return self._make.descend(rest, [partial(self._loss, task) for task in tasks])

    def state_dict(self) -> State:
        return self._make.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._make.load_state_dict(state)

    def _loss(self, task: Task, h: Tensor) -> Tensor:
        users = h[self._team.local(task.users)]
        return task.loss(users, self._team.all_items(h), self._config)


class RankingDiffusionStage(DenoiserStage):
    """Stage 2: the denoisers lead a noisy vector and history to what ranks the hidden interactions.

    loss = (1−α)·softmax((û + n̂)/2, items) + α·(mean((h_u − û)²) + mean((n_u − n̂)²))
    """

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config, histories=True)
        self._hidden = HiddenInteractions(model, config, self.name)
        self.steps_per_epoch = self._hidden.steps_per_epoch
        self.examples = self._team.num_users
        self._items = torch.arange(self._team.num_items, device=model.graph.device)

    def begin_epoch(self, epoch: int) -> None:
        self._vectors.leave()
        self._model.set_statistics(self._team.column_statistics)

    def _losses(self, step: int) -> Iterator[Tensor]:
        config = self._config
        self._vectors.leave()  # before a new graph needs as much
        rest, tasks = self._hidden.take(step)
        self._vectors.enter(rest)
        own_users = torch.cat([task.users for task in tasks])
        user, history, table, position = self._vectors.rows(own_users, self._items)
        seed = derive_seed("noise", config.seed, step)
        count = sum(task.of for task in tasks)  # of all processes
        steps, weights = self._steps.draw(count, seed)
        start = begun = 0
        for task in tasks:
            part = slice(start, start + len(task.users))
            start = part.stop
            h_u, n_u = user[part], history[part]
            drawn = slice(begun + task.first, begun + task.first + len(task.users))
            t, weight = steps[drawn], weights[drawn]
            of_part = derive_seed("noise", seed, begun)
            begun += task.of
            predicted = self._model.denoise(
                h_u, n_u, t.to(user.device), seed=of_part, first_row=task.first, of_rows=task.of
            )
            rank = task.loss(sum(predicted) / 2, F.embedding(position, table), config)
            # Where the tables are trained too, the target stays where it is.
            errors = sum(
                F.mse_loss(z, z0.detach(), reduction="none").mean(1)
                for z, z0 in zip(predicted, (h_u, n_u))
            )
            self._steps.record(t, errors.detach(), self._team.total)
            error = (weight.to(errors) * errors).sum() / count
            yield (1 - config.reconstruction) * rank + config.reconstruction * error
