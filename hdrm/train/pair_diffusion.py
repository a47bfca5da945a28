"""The diffusion as it was published: trained on a user and the very item that is to be ranked."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..config import Config
from ..model import HDRM
from ..seeds import derive_seed
from .batches import Batches
from .stages import DenoiserStage, nearest_of


class PairDiffusionStage(DenoiserStage):
    """Stage 2 with conditioning = "pair": on all edges, each in the graph that it is ranked with.

    Of a batch of (u, i⁺, i⁻), with the same step t for the first two and vectors h over the whole
    graph:

        p_u = the user's denoiser of (noised h_u, t, h_i⁺),   p_i = the item's of (noised h_i⁺, t, h_u)
        û = (1−ω)·h_u + ω·p_u,   î = (1−ω)·h_i⁺ + ω·p_i,   ω = config.training_omega
        loss = (1−α)·hinge(û, î, h_i⁻) + α·(mean((h_u − û)²) + mean((h_i⁺ − î)²))

    The label leaks: û is made from i⁺, and i⁻ takes another path. This is kept, as are ω = 0.05 in
    training, by which the reconstruction counts with ω², and a schedule of which one step acts: the
    preset ``paper`` is there to be compared with. The hinge's mean is over the batch.

    Not kept: the released code draws the noise that inference starts from, and takes its scale from
    the batch at hand; here it is the noise's mean, and the scale of all training users. The time
    column stays 0, distances are not clamped, patience counts from the first epoch, and weights for
    the encoder, which were not released, are trained (stage 1).

    Source: Yuan et al., *Hyperbolic Diffusion Recommender Model*, WWW 2025, and its released code.
    """

    def __init__(self, model: HDRM, config: Config) -> None:
        super().__init__(model, config, histories=False)
        self._batches = Batches(
            model.graph.user_items,
            model.graph.user_items,
            config.diffusion_batch,
            config.diffusion_negatives,
            derive_seed("diffusion", config.seed),
            by_user=config.pairs == "users",
        )
        self.steps_per_epoch = self._batches.steps_per_epoch
        self.examples = self._batches.examples
        self._entered = False

    def begin_epoch(self, epoch: int) -> None:
        self._vectors.leave()
        self._entered = False
        self._model.set_statistics()  # for inference; a step's noise has its batch's

    def _loss(self, step: int) -> Tensor:
        model, config = self._model, self._config
        if not self._entered:  # in a training that goes on, within an epoch
            self._vectors.enter(model.graph)
            self._entered = True
        users, positives, negatives = self._batches.batch(step)
        ids, row = torch.unique(users, return_inverse=True)
        items = torch.cat([positives[:, None], negatives], 1)
        of_users, _, table, position = self._vectors.rows(ids, items)
        user, item = F.embedding(row, of_users), F.embedding(position[:, 0], table)
        seed = derive_seed("noise", config.seed, step)
        t, weight = self._steps.draw(len(users), seed)
        predicted = model.denoise(user, item, t.to(user.device), seed=seed)
        u, pos = (
            torch.lerp(z0, z, config.training_omega) for z0, z in zip((user, item), predicted)
        )
        nearest = nearest_of(u, table, position[:, 1:], config.curvature)
        neg = F.embedding(nearest, table)
        rank = ops.margin_ranking_loss(u, pos, neg, config.margin, c=config.curvature)
        errors = F.mse_loss(u, user, reduction="none").mean(1)
        errors = errors + F.mse_loss(pos, item, reduction="none").mean(1)
        self._steps.record(t, errors.detach())
        error = (weight.to(errors) * errors).mean()
        return (1 - config.reconstruction) * rank + config.reconstruction * error
