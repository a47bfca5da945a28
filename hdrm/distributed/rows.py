"""Rows of the table wherever they are: a step of sampled propagation reads and moves some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..train.rows import RowGradients, RowTable
from ..train.stage import State
from .asking import Asking

if TYPE_CHECKING:
    from .team import RankTeam


class RankRows:
    """The interface of :class:`hdrm.train.rows.RowTable`, for ids of all nodes.

    Rows are fetched from their owners. Gradients go back to them, are summed there in the order of
    the processes, and move the row once.
    """

    def __init__(self, own: RowTable, team: RankTeam) -> None:
        self._own, self._team = own, team

    def fetch(self, ids: Tensor) -> Tensor:
        asking = self._asking(ids)
        return asking.answered(self._own.fetch(self._local(asking)))

    def step_(self, ids: Tensor, grad: Tensor) -> None:
        asking = self._asking(ids)
        local, given = self._local(asking), asking.given(grad)
        gradients = RowGradients()
        for some, rows in zip(local.split(asking.by_asker), given.split(asking.by_asker)):
            gradients.add(some, rows)
        self._own.step_(gradients.ids, gradients.grad)

    def state_dict(self) -> State:
        return self._own.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._own.load_state_dict(state)

    def _asking(self, ids: Tensor) -> Asking:
        return Asking(self._team.world, self._team.cuts.nodes, ids, label="rows")

    def _local(self, asking: Asking) -> Tensor:
        return self._team.cuts.local(self._team.rank, asking.asked)
