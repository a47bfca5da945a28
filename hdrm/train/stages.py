"""The two stages of training: what a step computes and which parameters it moves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import Config
from ..model import HDRM
from ..seeds import derive_seed, pair_bits
from .batches import Batches
from .stage import State, load_optimizer_state, optimizer_state
from .step_sampling import StepSampler
from .table_steps import backward, table_step
from .team import team_of
from .vectors import FrozenVectors, TrainedVectors

# Weights of the diffusion tried on the validation set; 0 is the encoder alone.
OMEGAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
COMPARED = 2**24  # numbers of the candidates' vectors at a time
LEAST_IN_FOLD = 20  # edges expected in a fold, so that none is empty


class EncoderStage:
    """Stage 1: the table, by the hinge on squared distances of propagated vectors.

    loss = Σ max(0, d²(u, i⁺) − d²(u, i⁻) + m), i⁻ the nearest to u of the items drawn.

    ``averaged`` are the parameters whose running average is validated instead of them.
    """

    name = "encoder"

    def __init__(self, model: HDRM, config: Config) -> None:
        self._config, self._team = config, team_of(model.graph)
        self.epochs = config.encoder_epochs
        self._make = table_step(model, config)
        self.averaged = self._make.averaged
        self._batches = Batches(
            model.graph.user_items,
            model.graph.user_items,
            config.encoder_batch,
            config.encoder_negatives,
            derive_seed("encoder", config.seed),
            by_user=config.pairs == "users",
            team=self._team,
        )
        self.steps_per_epoch = self._batches.steps_per_epoch
        self.examples = self._batches.examples
        self.omegas = (0.0,)

    def begin_epoch(self, epoch: int) -> None:
        pass

    def step(self, step: int) -> float:
        """Move the table by one batch; the batch's loss."""
        parts = list(self._batches.whole(step).chunks(self._config.micro_batches))
        seed = derive_seed("neighbours", self._config.seed, step)
        return self._make(parts, self._choose, self._hinge, seed)

    def state_dict(self) -> State:
        return self._make.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._make.load_state_dict(state)

    def _choose(self, h: Tensor, users: Tensor, candidates: Tensor) -> Tensor:
        """Of the rows of a table that are each user's candidates (B, n), the nearest (B,)."""
        return nearest_of(F.embedding(users, h.detach()), h, candidates, self._config.curvature)

    def _hinge(self, h: Tensor, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """The loss of rows of a table: users, positives and negatives, (B,) each."""
        c = self._config.curvature
        # One gather, so that its gradient is one table of h's size and not three.
        u, pos, neg = F.embedding(torch.cat([users, positives, negatives]), h).split(len(users))
        return ops.margin_ranking_loss(u, pos, neg, self._config.margin, c=c, reduction="sum")


class DenoiserStage:
    """Stage 2: the denoisers by Adam, on the propagated vectors of a table that may move with them.

    What a step's loss is, and on which graph's vectors, is for the kinds of diffusion to say.
    """

    name = "diffusion"

    def __init__(self, model: HDRM, config: Config, *, histories: bool) -> None:
        self._model, self._config, self._team = model, config, team_of(model.graph)
        self.epochs = config.diffusion_epochs
        self.averaged = list(model.denoisers.parameters())
        self._optimizer = torch.optim.Adam(
            model.denoisers.parameters(), lr=config.diffusion_lr, fused=True
        )
        self._vectors = FrozenVectors(model, histories=histories)
        if config.tables == "joint":
            self._vectors = TrainedVectors(model, config, histories=histories)
        self.averaged += self._vectors.averaged
        self.omegas = OMEGAS if config.omega is None else (config.omega,)
        self._steps = StepSampler(
            model.diffusion.steps, importance=config.step_sampling == "importance"
        )

    def step(self, step: int) -> float:
        """Move the denoisers, and the table where it is trained too, by one batch; its loss."""
        total = sum(backward(loss) for loss in self._losses(step))
        self._vectors.move()
        self._team.sum_gradients(self._model.denoisers.parameters())
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(self._team.total(total))

    def state_dict(self) -> State:
        return {
            "optimizer": optimizer_state(self._optimizer),
            "vectors": self._vectors.state_dict(),
            "steps": self._steps.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        load_optimizer_state(self._optimizer, state["optimizer"])
        self._vectors.load_state_dict(state["vectors"])
        self._steps.load_state_dict(state["steps"])

    def _losses(self, step: int) -> Iterator[Tensor]:
        """What the step's loss is the sum of; each goes backward before the next is computed."""
        yield self._loss(step)

    def _loss(self, step: int) -> Tensor:
        raise NotImplementedError


class DiffusionStage(DenoiserStage):
    """Stage 2 with conditioning = "history" and loss = "hinge": on edges that the propagated vectors have not seen.

    Every epoch divides the training edges into ``folds``, by a hash of each: no order of the edges is
    stored, and folds differ a little in size. While one is the positives, the graph is made of the
    others: what a denoiser gets to see — the user's vector and history — contains no trace of the
    item to be ranked, as at inference.

    loss = (1−α)·hinge((û + n̂)/2, h_i⁺, h_i⁻) + α·(mean((h_u − û)²) + mean((n_u − n̂)²))
    """

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config, histories=True)
        edges = int(self._team.total(torch.tensor(model.graph.user_items.nnz)))
        self._folds = max(1, min(config.folds, edges // LEAST_IN_FOLD))
        self._steps_per_fold = -(-edges // (self._folds * config.diffusion_batch))
        self.steps_per_epoch = self._folds * self._steps_per_fold
        by_user = config.pairs == "users"
        self.examples = self.steps_per_epoch * config.diffusion_batch if by_user else edges
        self._leave_fold()

    def begin_epoch(self, epoch: int) -> None:
        self._leave_fold()
        self._model.set_statistics(self._team.column_statistics)

    def _loss(self, step: int) -> Tensor:
        if step // self._steps_per_fold != self._fold:
            self._enter(step // self._steps_per_fold)
        model, config, batch = self._model, self._config, self._batches.whole(step)
        users, positives, negatives = batch.own
        whole = torch.unique(batch.users)
        own = self._team.slice_of(whole)
        row = torch.searchsorted(whole[own], users)
        items = torch.cat([positives[:, None], negatives], 1)
        user, history, table, position = self._vectors.rows(whole[own], items)
        seed = derive_seed("noise", config.seed, step)
        t, weight = (of[own] for of in self._steps.draw(len(whole), seed))
        user_hat, history_hat = model.denoise(
            user,
            history,
            t.to(user.device),
            seed=seed,
            first_row=own.start,
            of_rows=len(whole),
        )

        u = F.embedding(row, (user_hat + history_hat) / 2)
        nearest = nearest_of(u, table, position[:, 1:], config.curvature)
        ranked = torch.cat([position[:, 0], nearest])  # one gather, one gradient
        pos, neg = F.embedding(ranked, table).split(len(u))
        rank = ops.margin_ranking_loss(
            u, pos, neg, config.margin, c=config.curvature, reduction="sum"
        ) / len(batch.users)
        # Where the tables are trained too, the target stays where it is.
        errors = F.mse_loss(user_hat, user.detach(), reduction="none").mean(1)
        errors = errors + F.mse_loss(history_hat, history.detach(), reduction="none").mean(1)
        self._steps.record(t, errors.detach(), self._team.total)
        error = (weight.to(errors) * errors).sum() / len(whole)
        return (1 - config.reconstruction) * rank + config.reconstruction * error

    def _enter(self, fold: int) -> None:
        """Take one fold's edges out of the graph and make them the positives.

        Folds are counted from 0 over all epochs.
        """
        model, config = self._model, self._config
        self._leave_fold()
        epoch, part = divmod(fold, self._folds)
        key = derive_seed("folds", config.seed, epoch + 1)

        def hidden(users: Tensor, items: Tensor) -> Tensor:
            bits = pair_bits(key, users, items, self._team.num_items)
            return (bits * self._folds) >> 32 == part

        graph = model.graph.where(lambda users, items: ~hidden(users, items))
        first = self._team.users.start  # rows count from it
        self._batches = Batches(
            model.graph.user_items.where(lambda rows, items: hidden(rows + first, items)),
            model.graph.user_items,
            config.diffusion_batch,
            config.diffusion_negatives,
            derive_seed("diffusion", config.seed),
            by_user=config.pairs == "users",
            team=self._team,
        )
        self._fold = fold
        self._vectors.enter(graph)

    def _leave_fold(self) -> None:
        """Free what belongs to a fold, before a new one needs as much."""
        self._fold, self._batches = -1, None
        self._vectors.leave()


@torch.no_grad()
def nearest_of(u: Tensor, table: Tensor, candidates: Tensor, c: float) -> Tensor:
    """Of each row of candidates (B, n), rows of ``table``, the one nearest to u (B, dim)."""
    count = candidates.shape[1]
    if count == 1:
        return candidates[:, 0]
    rows = max(COMPARED // (count * u.shape[1]), 1)
    nearest = []
    for some, theirs in zip(u.split(rows), candidates.split(rows)):
        vectors = F.embedding(theirs, table)
        distances = ops.sqdist0(some[:, None].expand_as(vectors), vectors, c=c)
        nearest.append(theirs.gather(1, distances.argmin(1, keepdim=True))[:, 0])
    return torch.cat(nearest)
