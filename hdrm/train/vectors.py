"""The propagated vectors that the diffusion is trained on: of a table that stays, or that is trained.

Both are used in one order: ``enter`` a graph, then for every step ``rows`` and, after the loss's
backward, ``move``. A step works on the rows that it asks for: where the table is trained, their
gradients have the batch's size until one table is made of them, for which the vectors make room.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..graph import BipartiteGraph
from ..model import HDRM, slices
from .stage import State
from .table_steps import whole_step
from .team import team_of


class FrozenVectors:
    """Of a table that stays: propagated once a graph. ``histories``: those of users are asked for."""

    averaged: Sequence[Tensor] = ()

    def __init__(self, model: HDRM, *, histories: bool) -> None:
        self._model, self._histories, self._team = model, histories, team_of(model.graph)
        self.leave()

    def enter(self, graph: BipartiteGraph) -> None:
        with torch.no_grad():
            self._h = self._model.encoder(graph)
            if self._histories:
                self._history = self._model.user_inputs(self._h, graph)[1]

    def leave(self) -> None:
        """Free what belongs to the graph."""
        self._h = self._history = None

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """What a step needs.

        Args:
            users: int64 (n,), distinct, of this process.
            items: int64, any shape; they may repeat.

        Returns:
            Vectors and histories (or None) of the users (n, dim), a table, and the items' positions
            in it.
        """
        users = self._team.local(users)
        history = F.embedding(users, self._history) if self._histories else None
        return F.embedding(users, self._h), history, *self._team.item_rows(self._h, items)

    def move(self) -> None:
        pass

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        pass


class TrainedVectors:
    """Of a table that every step moves: propagated in every step, and back."""

    def __init__(self, model: HDRM, config: Config, *, histories: bool) -> None:
        self._step, self._histories = whole_step(model, config), histories
        self._team = team_of(model.graph)
        self.averaged = self._step.averaged
        self.leave()

    def enter(self, graph: BipartiteGraph) -> None:
        self._graph = graph

    def leave(self) -> None:
        self._graph = None

    def rows(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """As of FrozenVectors; vectors, histories and table are leaves."""
        h, users = self._step.encode(self._graph), self._team.local(users)
        self._shape, self._users = h.shape, users
        self._items, position = torch.unique(items, return_inverse=True)
        self._leaves = (
            F.embedding(users, h).requires_grad_(),
            slices.histories(h, self._graph, users).requires_grad_() if self._histories else None,
            self._team.distinct_rows(h, self._items).requires_grad_(),
        )
        return *self._leaves, position

    def move(self) -> None:
        """Move the table by the gradients that backward has left at the rows."""
        user, history, item = (leaf if leaf is None else leaf.grad for leaf in self._leaves)
        del self._leaves
        gradient = user.new_zeros(self._shape)
        # Users and items are other rows, none of them twice.
        gradient.index_copy_(0, self._users, user)
        self._team.give_(gradient, self._items, item)
        if history is not None:
            slices.add_history_gradient_(gradient, self._graph, self._users, history)
        del user, history, item
        self._step.move(gradient)

    def state_dict(self) -> State:
        return self._step.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._step.load_state_dict(state)
