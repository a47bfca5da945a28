"""Which diffusion step a training row is noised to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .stage import State

HISTORY = 10  # losses remembered of every step


class StepSampler:
    """Draws t in 0 … T−1 uniformly, or by importance: p_t ∝ √E[L_t²].

    E is over the last ten losses of each step; until all steps have ten, the draw is uniform. Losses
    are to be weighted by 1/(T·p_t), so that their expectation is that of uniform steps.

    Source: Nichol, Dhariwal, *Improved denoising diffusion probabilistic models*, 2021, eq. 18.
    """

    def __init__(self, steps: int, *, importance: bool) -> None:
        self._importance = importance
        self._losses = torch.zeros(steps, HISTORY, dtype=torch.float64)
        self._seen = torch.zeros(steps, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p_t, float64 (T,)."""
        steps = len(self._seen)
        weight = self._losses.square().mean(1).sqrt()
        if not self._importance or self._seen.min() < HISTORY or weight.sum() == 0:
            return torch.full((steps,), 1 / steps, dtype=torch.float64)
        # A share of uniform draws keeps every step alive and every weight finite.
        return 0.999 * weight / weight.sum() + 0.001 / steps

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """t int64 (count,) and the weight of each row's loss, float64 (count,), on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        p = self.probabilities()
        t = torch.multinomial(p, count, replacement=True, generator=generator)
        return t, 1 / (len(p) * p[t])

    def record(
        self, t: Tensor, losses: Tensor, total_of: Callable[[Tensor], Tensor] = lambda x: x
    ) -> None:
        """Remember the losses of rows at their steps; one of each step, the batch's mean.

        ``total_of`` sums over the parts of the batch, where this is not the whole.
        """
        if not self._importance:
            return
        count = total_of(torch.bincount(t, minlength=len(self._seen)))
        total = total_of(torch.bincount(t, losses.cpu().double(), minlength=len(self._seen)))
        steps = torch.nonzero(count)[:, 0]
        self._losses[steps, self._seen[steps] % HISTORY] = (total / count)[steps]
        self._seen[steps] += 1

    def state_dict(self) -> State:
        return {"losses": self._losses, "seen": self._seen}

    def load_state_dict(self, state: State) -> None:
        self._losses.copy_(state["losses"])
        self._seen.copy_(state["seen"])
