"""A step of the encoder's table: the gradient of a loss of propagated vectors, and the move.

Both ways take the batch in parts, whose gradients sum: the memory of what depends on the batch is
that of one part, and the step is that of the whole batch up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..config import Config
from ..graph import BipartiteGraph
from ..model import HDRM
from ..model.neighbourhood import Neighbourhood
from ..optim import RiemannianAdam, RiemannianSGD
from .rows import RowGradients, RowTable

# A part of the batch: node ids of any shapes. A loss: of h and the positions of these nodes in h.
Part = Sequence[Tensor]
Loss = Callable[..., Tensor]


class FullStep:
    """Propagates over the whole graph and moves every row.

    The vectors are detached from the table while the parts add up their gradient, one dense table
    for all; it then goes through the propagation once.
    """

    def __init__(self, model: HDRM, config: Config) -> None:
        self._model, self.averaged = model, [model.encoder.table]
        self._optimizer = table_optimizer(model, config)

    def __call__(
        self,
        parts: Sequence[Part],
        loss: Loss,
        seed: int = 0,
        *,
        graph: BipartiteGraph | None = None,
    ) -> float:
        """Make a step; the loss, summed over the parts. There is nothing to draw from ``seed``.

        graph: to propagate over; None for the model's.
        """
        h = self._model.encoder(self._model.graph if graph is None else graph)
        edge, leaf = torch.autograd.graph.get_gradient_edge(h), h.detach().requires_grad_()
        del h  # the propagation's gradient does not need its result
        total = sum(_backward(loss(leaf, *part)) for part in parts)
        gradient = leaf.grad
        del leaf
        torch.autograd.backward(edge, gradient)
        del gradient
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(total)


class SampledStep:
    """Propagates over the sampled neighbourhood of the batch and moves its rows only.

    A running average of all rows would cost more than the step: there is none.
    """

    averaged: Sequence[Tensor] = ()

    def __init__(self, model: HDRM, config: Config) -> None:
        self._graph, self._fanouts, self._c = model.graph, config.fanouts, config.curvature
        self._rows = RowTable(
            model.encoder.table,
            model.graph.device,
            lr=config.encoder_lr,
            momentum=config.encoder_momentum,
            weight_decay=config.encoder_weight_decay,
            c=config.curvature,
        )

    def __call__(self, parts: Sequence[Part], loss: Loss, seed: int) -> float:
        """Make a step; the loss, summed over the parts. Neighbours are drawn from ``seed``."""
        total, gradients = 0.0, RowGradients()
        for part in parts:
            ids = torch.cat([nodes.flatten() for nodes in part])
            targets, position = torch.unique(ids, return_inverse=True)
            neighbourhood = Neighbourhood.sample(self._graph, targets, self._fanouts, seed=seed)
            x = self._rows.fetch(neighbourhood.nodes).requires_grad_()
            h = neighbourhood.propagate(x, c=self._c)
            places = position.split([nodes.numel() for nodes in part])
            total += _backward(loss(h, *(p.view_as(ids) for p, ids in zip(places, part))))
            gradients.add(neighbourhood.nodes, x.grad)
        self._rows.step_(gradients.ids, gradients.grad)
        return float(total)


def table_optimizer(model: HDRM, config: Config) -> RiemannianSGD | RiemannianAdam:
    """Riemannian SGD or Adam on the whole table."""
    if config.encoder_optimizer == "adam":
        return RiemannianAdam(
            [model.encoder.table],
            lr=config.encoder_lr,
            betas=(config.encoder_momentum, 0.999),
            weight_decay=config.encoder_weight_decay,
        )
    return RiemannianSGD(
        [model.encoder.table],
        lr=config.encoder_lr,
        momentum=config.encoder_momentum,
        weight_decay=config.encoder_weight_decay,
    )


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss.detach()
