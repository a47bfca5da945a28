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
from ..optim import RiemannianAdam, RiemannianSGD
from .rows import RowGradients, RowTable
from .stage import State, load_optimizer_state, optimizer_state
from .team import team_of

# A part of the batch: users (B,), positives (B,) and candidates for the negatives (B, n).
Part = Sequence[Tensor]
# Of a table and the positions in it of users and candidates: those of the negatives (B,), without
# gradient.
Choice = Callable[[Tensor, Tensor, Tensor], Tensor]
# Of a table and the positions in it of users, positives and negatives.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class WholeStep:
    """Propagates over the whole graph and moves every row; on one device, or from the host."""

    def __init__(self, model: HDRM, config: Config) -> None:
        self._model, self.averaged = model, [model.encoder.table]
        self._team = team_of(model.graph)

    def __call__(self, parts: Sequence[Part], choose: Choice, loss: Loss, seed: int) -> float:
        """Make a step; the loss, summed over the parts. There is nothing to draw from ``seed``."""

        def of(users: Tensor, positives: Tensor, candidates: Tensor) -> Callable[[Tensor], Tensor]:
            def value(h: Tensor) -> Tensor:
                table, u, p, c = self._team.nodes(h, users, positives, candidates)
                return loss(table, u, p, choose(table, u, c))

            return value

        return self.descend(self._model.graph, [of(*part) for part in parts])

    def descend(self, graph: BipartiteGraph, losses: Sequence[Callable[[Tensor], Tensor]]) -> float:
        """Make a step on the sum of losses of h, propagated over a graph; the sum."""
        leaf = self.encode(graph).requires_grad_()
        # One dense table of gradients for all; it goes through the propagation once.
        total = sum(backward(loss(leaf)) for loss in losses)
        gradient = leaf.grad
        del leaf
        self.move(gradient)
        return float(self._team.total(total))

    def encode(self, graph: BipartiteGraph) -> Tensor:
        """Propagated vectors of this process's nodes, (U + I, dim), without a gradient of their own."""
        raise NotImplementedError

    def move(self, gradient: Tensor) -> None:
        """Move the table by the gradient of what encode gave last; ``gradient`` is overwritten."""
        raise NotImplementedError

    def state_dict(self) -> State:
        """What a step remembers beside the table."""
        raise NotImplementedError

    def load_state_dict(self, state: State) -> None:
        raise NotImplementedError


class FullStep(WholeStep):
    """A step whose table, momentum and gradients are on the device."""

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config)
        self._optimizer = _optimizer(model, config)

    def encode(self, graph: BipartiteGraph) -> Tensor:
        h = self._model.encoder(graph)
        self._edge = torch.autograd.graph.get_gradient_edge(h)
        return h.detach()  # the propagation's gradient does not need its result

    def move(self, gradient: Tensor) -> None:
        torch.autograd.backward(self._edge, gradient)
        del self._edge, gradient
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> State:
        return optimizer_state(self._optimizer)

    def load_state_dict(self, state: State) -> None:
        load_optimizer_state(self._optimizer, state)


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

    def state_dict(self) -> State:
        return self._rows.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._rows.load_state_dict(state)


class SampledStep:
    """Propagates over the sampled neighbourhood of the batch and moves its rows only.

    A running average of all rows would cost more than the step: there is none.
    """

    averaged: Sequence[Tensor] = ()

    def __init__(self, model: HDRM, config: Config) -> None:
        self._graph, self._fanouts, self._c = model.graph, config.fanouts, config.curvature
        self._team = team_of(model.graph)
        self._rows = _row_table(model, config)

    def __call__(self, parts: Sequence[Part], choose: Choice, loss: Loss, seed: int) -> float:
        """Make a step; the loss, summed over the parts. Neighbours are drawn from ``seed``.

        Of several candidates the negative is chosen first, so that the others have no gradient and
        their rows do not move. It takes a propagation of its own, of the same draws: they are
        functions of (seed, layer, node).
        """
        total, gradients, first = 0.0, RowGradients(), self._team.num_users
        for users, positives, candidates in parts:
            positives, candidates = positives + first, candidates + first
            negatives = self._nearest(users, candidates, choose, seed)
            around, places = self._around([users, positives, negatives], seed)
            x = self._rows.fetch(around.nodes).requires_grad_()
            total += backward(loss(around.propagate(x, c=self._c), *places))
            gradients.add(around.nodes, x.grad)
        self._rows.step_(gradients.ids, gradients.grad)
        return float(self._team.total(total))

    def state_dict(self) -> State:
        """What a step remembers beside the table."""
        return self._rows.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._rows.load_state_dict(state)

    @torch.no_grad()
    def _nearest(self, users: Tensor, candidates: Tensor, choose: Choice, seed: int) -> Tensor:
        """The chosen node of each row of candidates, some users at a time."""
        count = candidates.shape[1]
        if count == 1:
            return candidates[:, 0]
        chosen = []
        turns = turns_to_choose(count)
        for some, theirs in zip(users.tensor_split(turns), candidates.tensor_split(turns)):
            around, places = self._around([some, theirs], seed)
            h = around.propagate(self._rows.fetch(around.nodes), c=self._c)
            chosen.append(around.nodes[choose(h, *places)])
        return torch.cat(chosen)

    def _around(self, nodes: Sequence[Tensor], seed: int) -> tuple[Neighbourhood, list[Tensor]]:
        """The neighbourhood of node ids of any shapes, and where they are among its targets."""
        targets, place = torch.unique(torch.cat([n.flatten() for n in nodes]), return_inverse=True)
        places = place.split([n.numel() for n in nodes])
        around = Neighbourhood.sample(self._graph, targets, self._fanouts, seed=seed)
        return around, [p.view_as(n) for p, n in zip(places, nodes)]


def turns_to_choose(candidates: int) -> int:
    """Parts in which negatives are chosen: of as many nodes as the step, which has three a user."""
    return -(-(1 + candidates) // 3) if candidates > 1 else 1


def table_step(model: HDRM, config: Config) -> FullStep | HostStep | SampledStep:
    """How the settings want the table to be moved."""
    return (SampledStep if config.propagation == "sampled" else whole_step)(model, config)


def whole_step(model: HDRM, config: Config) -> FullStep | HostStep:
    """How the settings want the whole table to be moved."""
    return (HostStep if config.tables_on == "host" else FullStep)(model, config)


def learning_rate(model: HDRM, config: Config) -> float:
    """encoder_lr, and less where steps rank fewer hidden interactions than it is for.

    The mean of fewer gradients is noisier, which Adam does not make up for: its steps stay as long.

    Source of the square root: Malladi et al., *On the SDEs and scaling rules for adaptive gradient
    algorithms*, NeurIPS 2022.
    """
    if config.loss != "softmax" or not config.encoder_lr_at:
        return config.encoder_lr
    team = team_of(model.graph)
    interactions = int(team.total(torch.tensor(model.graph.user_items.nnz)))
    users = min(config.softmax_users, team.num_users)
    ranked = config.edge_dropout * interactions * users / team.num_users
    return config.encoder_lr * min(1.0, ranked / config.encoder_lr_at) ** 0.5


def _optimizer(model: HDRM, config: Config) -> RiemannianSGD | RiemannianAdam:
    """Of the whole table."""
    options = {"lr": learning_rate(model, config), "weight_decay": config.encoder_weight_decay}
    if config.encoder_optimizer == "adam":
        return RiemannianAdam(
            [model.encoder.table], betas=(config.encoder_momentum, 0.999), **options
        )
    return RiemannianSGD([model.encoder.table], momentum=config.encoder_momentum, **options)


def _row_table(model: HDRM, config: Config) -> RowTable:
    table = RowTable(
        model.encoder.table,
        model.graph.device,
        lr=learning_rate(model, config),
        momentum=config.encoder_momentum,
        weight_decay=config.encoder_weight_decay,
        c=config.curvature,
    )
    return team_of(model.graph).rows(table)


def backward(loss: Tensor) -> Tensor:
    """The loss without its graph, which holds leaves and their gradients as long as it lives."""
    loss.backward()
    return loss.detach()
