"""Rows of a table of points: what a step that touches only some of them reads, moves and writes."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops
from .stage import State


class RowTable:
    """A table of points of which every step moves some rows by Riemannian SGD.

    A row that a step does not name is neither moved by its momentum nor decayed, as with
    ``geoopt.optim.SparseRiemannianSGD``: a step costs what its rows cost. Momentum starts at 0, so
    that the first of a row's gradients enters once, m₁ = (1−τ)·v₁ with τ = 0;
    :class:`hdrm.optim.RiemannianSGD` and geoopt start with v₁ itself and let it enter twice, which
    needs a mark on every row that was never touched.

    Args:
        table: points (N, d+1), contiguous; moved in place, on whatever device it is.
        device: where steps are computed. Elsewhere than the table's, rows travel.
        lr, momentum, weight_decay: as in ``torch.optim.SGD``.
        c: the curvature is −c.

    With momentum a second table of N rows lies beside the first.
    """

    def __init__(
        self,
        table: Tensor,
        device: torch.device,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        c: float,
    ) -> None:
        self._table, self._device = table.detach(), device
        self._buffer = torch.zeros_like(self._table) if momentum else None
        self._hyperparameters = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "c": c,
        }

    def fetch(self, ids: Tensor) -> Tensor:
        """The points of the rows ``ids``, int64 (n,), as a new tensor (n, d+1) on the device."""
        return self._read(self._table, ids)

    def step_(self, ids: Tensor, grad: Tensor) -> None:
        """Move the rows ``ids``, int64 (n,), distinct, by their Euclidean gradient (n, d+1)."""
        ids = ids.to(self._table.device)
        points = self._read(self._table, ids)
        buffer = None if self._buffer is None else self._read(self._buffer, ids)
        ops.riemannian_sgd_step_(points, grad, buffer, **self._hyperparameters)
        self._table.index_copy_(0, ids, points.to(self._table.device))
        if buffer is not None:
            self._buffer.index_copy_(0, ids, buffer.to(self._table.device))

    def state_dict(self) -> State:
        """The momentum, if there is any."""
        return {} if self._buffer is None else {"momentum": self._buffer}

    def load_state_dict(self, state: State) -> None:
        if self._buffer is not None:
            self._buffer.copy_(state["momentum"])

    def _read(self, source: Tensor, ids: Tensor) -> Tensor:
        ids = ids.to(source.device)
        if source.device == self._device:
            return source.index_select(0, ids)
        # What a copy engine reads are the gathered rows: they are pinned, the tables need not be.
        staged = torch.empty(
            (len(ids), source.shape[1]), dtype=source.dtype, pin_memory=self._device.type == "cuda"
        )
        torch.index_select(source, 0, ids, out=staged)
        return staged.to(self._device, non_blocking=True)


class RowGradients:
    """The sum of gradients of different sets of rows, in memory of their union."""

    def __init__(self) -> None:
        self.ids: Tensor | None = None  # int64 (n,), distinct
        self.grad: Tensor | None = None  # (n, d+1)

    def add(self, ids: Tensor, grad: Tensor) -> None:
        """Add the gradients (m, d+1) of the rows ``ids``, int64 (m,), distinct."""
        if self.ids is None:
            self.ids, self.grad = ids, grad
            return
        union, position = torch.unique(torch.cat([self.ids, ids]), return_inverse=True)
        total = grad.new_zeros(len(union), grad.shape[1])
        # No row occurs twice in either, so nothing depends on an order of additions.
        for part, rows in zip(position.split([len(self.ids), len(ids)]), (self.grad, grad)):
            total.index_add_(0, part, rows)
        self.ids, self.grad = union, total
