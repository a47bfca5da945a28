"""A step of the encoder's table: the gradient of a loss of propagated vectors, and the move.

Both ways take the batch in parts, whose gradients sum: the memory of what depends on the batch is
that of one part, and the step is that of the whole batch up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import ops
from ..config import Config
from ..graph import BipartiteGraph
from ..model import HDRM, slices
from ..model.encoder import blocks
from ..model.neighbourhood import Neighbourhood
from ..optim import RiemannianSGD
from .rows import RowGradients, RowTable

# A part of the batch: node ids of any shapes. A loss: of h and the positions of these nodes in h.
Part = Sequence[Tensor]
Loss = Callable[..., Tensor]


class WholeStep:
    """Propagates over the whole graph and moves every row; on one device, or from the host."""

    def __init__(self, model: HDRM, config: Config) -> None:
        self._model, self.averaged = model, [model.encoder.table]

    def __call__(self, parts: Sequence[Part], loss: Loss, seed: int) -> float:
        """Make a step; the loss, summed over the parts. There is nothing to draw from ``seed``."""
        leaf = self.encode(self._model.graph).requires_grad_()
        # One dense table of gradients for all parts; then it goes through the propagation once.
        total = sum(backward(loss(leaf, *part)) for part in parts)
        gradient = leaf.grad
        del leaf
        self.move(gradient)
        return float(total)

    def encode(self, graph: BipartiteGraph) -> Tensor:
        """Propagated vectors (U + I, dim), without a gradient of their own."""
        raise NotImplementedError

    def move(self, gradient: Tensor) -> None:
        """Move the table by the gradient of what encode gave last; ``gradient`` is overwritten."""
        raise NotImplementedError


class FullStep(WholeStep):
    """A step whose table, momentum and gradients are on the device."""

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config)
        self._optimizer = RiemannianSGD(
            [model.encoder.table],
            lr=config.encoder_lr,
            momentum=config.encoder_momentum,
            weight_decay=config.encoder_weight_decay,
        )

    def encode(self, graph: BipartiteGraph) -> Tensor:
        h = self._model.encoder(graph)
        self._edge = torch.autograd.graph.get_gradient_edge(h)
        return h.detach()  # the propagation's gradient does not need its result

    def move(self, gradient: Tensor) -> None:
        torch.autograd.backward(self._edge, gradient)
        del self._edge, gradient
        self._optimizer.step()
        self._optimizer.zero_grad()


class HostStep(WholeStep):
    """A step whose table and momentum are in host memory.

    The device holds the propagated vectors, then their gradient, and slices and blocks of anything
    else; points and momentum cross over once each way.
    """

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config)
        self._c = config.curvature
        self._rows = _row_table(model, config)

    def encode(self, graph: BipartiteGraph) -> Tensor:
        self._graph = graph
        return self._model.encoder(graph)

    def move(self, gradient: Tensor) -> None:
        slices.propagate_(
            gradient,
            self._graph,
            self._model.encoder.num_layers,
            transposed=True,
            work_dtype=self._model.encoder.work_dtype,
        )
        for rows in blocks(gradient):
            ids = torch.arange(rows.start, rows.stop)
            x = self._rows.fetch(ids).requires_grad_()
            (of_points,) = torch.autograd.grad(ops.logmap0(x, c=self._c), x, gradient[rows])
            self._rows.step_(ids, of_points)


class SampledStep:
    """Propagates over the sampled neighbourhood of the batch and moves its rows only.

    A running average of all rows would cost more than the step: there is none.
    """

    averaged: Sequence[Tensor] = ()

    def __init__(self, model: HDRM, config: Config) -> None:
        self._graph, self._fanouts, self._c = model.graph, config.fanouts, config.curvature
        self._rows = _row_table(model, config)

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
            total += backward(loss(h, *(p.view_as(ids) for p, ids in zip(places, part))))
            gradients.add(neighbourhood.nodes, x.grad)
        self._rows.step_(gradients.ids, gradients.grad)
        return float(total)


def table_step(model: HDRM, config: Config) -> FullStep | HostStep | SampledStep:
    """How the settings want the table to be moved."""
    return (SampledStep if config.propagation == "sampled" else whole_step)(model, config)


def whole_step(model: HDRM, config: Config) -> FullStep | HostStep:
    """How the settings want the whole table to be moved."""
    return (HostStep if config.tables_on == "host" else FullStep)(model, config)


def _row_table(model: HDRM, config: Config) -> RowTable:
    return RowTable(
        model.encoder.table,
        model.graph.device,
        lr=config.encoder_lr,
        momentum=config.encoder_momentum,
        weight_decay=config.encoder_weight_decay,
        c=config.curvature,
    )


def backward(loss: Tensor) -> Tensor:
    """The loss without its graph, which holds leaves and their gradients as long as it lives."""
    loss.backward()
    return loss.detach()
