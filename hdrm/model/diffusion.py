"""Schedules, the forward noise and the reverse step of the diffusion.

    q(z_t | z_0):   z_t = √ᾱ_t·z_0 + √(1−ᾱ_t)·ε        (ops/noising: isotropic or directional ε)
    reverse:        z_{t−1} = c0_t·ẑ_0 + ct_t·z_t (+ √v_t·ε),  the mean and variance of
                    q(z_{t−1} | z_t, z_0) at the predicted ẑ_0
        c0_t = √ᾱ_{t−1}·β_t/(1−ᾱ_t),  ct_t = √α_t·(1−ᾱ_{t−1})/(1−ᾱ_t),  v_t = β_t(1−ᾱ_{t−1})/(1−ᾱ_t)
        ᾱ_t = Π_{s≤t} α_s,  α_t = 1−β_t,  ᾱ_{−1} = 1

Sources: Ho, Jain, Abbeel, *Denoising diffusion probabilistic models*, 2020, eqs. 4–7; Nichol,
Dhariwal, *Improved DDPM*, 2021, for the cosine schedule and importance sampling of t.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import ops
from ..config import Config

SCHEDULES = ("linear", "linear-var", "cosine", "binomial")
FIRST_BETA = 1e-5  # the first step barely moves, whatever the schedule (DiffRec, HDRM)
MAX_BETA = 0.999
IDLE = 1e-3  # a reverse step that gives ẑ_0 less weight than this leaves z_t as it is


def betas(schedule: str, steps: int, scale: float, low: float, high: float) -> np.ndarray:
    """β_1 … β_T of a schedule, float64 (T,); β_1 is replaced by 1e-5.

    Args:
        schedule: "linear": β from scale·low to scale·high. "linear-var": 1−ᾱ_t from scale·low to
            scale·high. "cosine": ᾱ = cos²(π/2·(t/T + 0.008)/1.008). "binomial": β_t =
            1/(T − t + 1) with t from 0. The last two have no further parameters.
        steps: T.

    Raises:
        ValueError: unknown schedule, steps < 1, or a schedule with values outside [0, 1).
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if steps < 1:
        raise ValueError(f"the diffusion needs at least one step, got {steps}")
    if schedule in ("linear", "linear-var") and not 0 < scale * low <= scale * high < 1:
        raise ValueError(
            f"the schedule {schedule!r} needs 0 < noise_scale·noise_min ≤ noise_scale·noise_max "
            f"< 1, got {scale * low:g} and {scale * high:g}"
        )
    ramp = np.linspace(scale * low, scale * high, steps)
    if schedule == "linear":
        beta = ramp
    elif schedule == "linear-var":
        beta = _betas_of_levels(np.concatenate([[1.0], 1 - ramp]))
    elif schedule == "cosine":
        time = np.arange(steps + 1) / steps
        beta = _betas_of_levels(np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2)
    else:
        beta = 1 / (steps - np.arange(steps) + 1)
    beta = beta.astype(np.float64)
    beta[0] = FIRST_BETA
    return beta


def _betas_of_levels(alpha_bar: np.ndarray) -> np.ndarray:
    """β_t = 1 − ᾱ_t/ᾱ_{t−1} of levels ᾱ_{−1}, ᾱ_0, …"""
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], MAX_BETA)


class ScheduleRow(NamedTuple):
    """One step of a schedule, for people."""

    t: int
    beta: float
    signal: float  # √ᾱ_t
    noise: float  # √(1−ᾱ_t)
    weight: float  # c0_t: the weight of ẑ_0 in the reverse mean
    acts: bool


class Diffusion(nn.Module):
    """The tables of one schedule (float64) and the two directions of the process.

    Args:
        schedule, steps, scale, low, high: as :func:`betas`.
        noise: "directional" or "isotropic" (:mod:`hdrm.ops.noising`).
        predict: what a denoiser returns, "residual", "x0" or "eps"; see predicted_x0.
        growth: radial growth δ of the forward step.
        c: the curvature is −c.

    A schedule whose reverse steps do nothing is warned of.
    """

    beta: Tensor
    alpha_bar: Tensor
    mean_x0: Tensor
    mean_zt: Tensor
    variance: Tensor

    def __init__(
        self,
        schedule: str,
        steps: int,
        scale: float,
        low: float,
        high: float,
        *,
        noise: str = "directional",
        predict: str = "residual",
        growth: float = 0.0,
        c: float = 1.0,
    ) -> None:
        super().__init__()
        beta = betas(schedule, steps, scale, low, high)
        alpha_bar = np.cumprod(1 - beta)
        previous = np.concatenate([[1.0], alpha_bar[:-1]])
        tables = {
            "beta": beta,
            "alpha_bar": alpha_bar,
            "mean_x0": np.sqrt(previous) * beta / (1 - alpha_bar),
            "mean_zt": np.sqrt(1 - beta) * (1 - previous) / (1 - alpha_bar),
            "variance": beta * (1 - previous) / (1 - alpha_bar),
        }
        self._tables = tables
        for name, table in tables.items():
            # Recomputed from the configuration, so not part of a checkpoint.
            self.register_buffer(name, torch.from_numpy(table), persistent=False)
        self.steps, self.noise, self.predict = steps, noise, predict
        self.growth, self.c = growth, c
        idle = [row.t for row in self.table() if not row.acts]
        if idle:
            warnings.warn(
                f"the schedule {schedule!r} is degenerate: {len(idle)} of {steps} reverse steps "
                f"do nothing (the prediction's weight is below {IDLE:g}); raise noise_scale or "
                f"noise_max",
                stacklevel=2,
            )

    @classmethod
    def from_config(cls, config: Config) -> Diffusion:
        """The diffusion that a configuration describes."""
        return cls(
            config.schedule,
            config.steps,
            config.noise_scale,
            config.noise_min,
            config.noise_max,
            noise=config.noise,
            predict=config.predict,
            growth=config.growth,
            c=config.curvature,
        )

    def _apply(self, fn, recurse=True):
        """As nn.Module for .to(device) and to_empty; the tables stay float64."""
        super()._apply(fn, recurse)
        for name, table in self._tables.items():
            setattr(self, name, torch.from_numpy(table).to(getattr(self, name).device))
        return self

    def add_noise(
        self,
        z0: Tensor,
        t: Tensor,
        statistics: tuple[Tensor, Tensor] | None,
        *,
        seed: int | Tensor,
        first_row: int = 0,
    ) -> Tensor:
        """z_t of each row of z0 (B, d+1) at its step t int64 (B,); statistics None: those of z0.

        Noise is drawn by a row's number, which is first_row for the first.
        """
        if self.noise == "isotropic":
            return ops.isotropic_noise(
                z0, t, self.alpha_bar, seed=seed, first_row=first_row, growth=self.growth, c=self.c
            )
        return ops.directional_noise(
            z0,
            t,
            self.alpha_bar,
            seed=seed,
            first_row=first_row,
            statistics=statistics,
            growth=self.growth,
            c=self.c,
        )

    def start(
        self,
        z0: Tensor,
        steps: int,
        statistics: tuple[Tensor, Tensor],
        *,
        seed: int | None,
        first_row: int = 0,
    ) -> Tensor:
        """Where the reverse process of T' steps starts: z_{T'−1}, or its mean without a seed.

        The mean of directional noise is μ + σ⊙sgn(z_0)·√(2/π), that of isotropic noise 0. A single
        step starts from z_0 itself. first_row as in :meth:`add_noise`.
        """
        if steps == 1:
            return z0
        if seed is not None:
            t = torch.full((len(z0),), steps - 1, device=z0.device)
            return self.add_noise(z0, t, statistics, seed=seed, first_row=first_row)
        level = float(self.alpha_bar[steps - 1])
        z = level**0.5 * z0
        if self.noise == "directional":
            mean, std = statistics
            z = z + (1 - level) ** 0.5 * (mean + math.sqrt(2 / math.pi) * std * torch.sgn(z0))
        return z

    def pure_noise(
        self, z: Tensor, statistics: tuple[Tensor, Tensor], *, seed: int, first_row: int = 0
    ) -> Tensor:
        """Normal draws of z's shape for a reverse step; on the data's scale σ if directional.

        first_row as in :meth:`add_noise`.
        """
        t = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        nothing = self.alpha_bar.new_zeros(1)  # ᾱ
        eps = ops.isotropic_noise(z, t, nothing, seed=seed, first_row=first_row)
        return eps * statistics[1] if self.noise == "directional" else eps

    def predicted_x0(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """ẑ_0 from a denoiser's output f.

        "residual": z_t + √(1−ᾱ_t)·f.  "eps": (z_t − √(1−ᾱ_t)·f)/√ᾱ_t.  "x0": f.

        In the first two what the network changes is on the scale of the noise that was added: it
        need not learn to leave alone what is clean.
        """
        if self.predict == "x0":
            return output
        level = self.alpha_bar[t][:, None]
        size = (1 - level).sqrt().to(output.dtype)
        if self.predict == "residual":
            return torch.addcmul(z_t, size, output)
        return torch.addcmul(z_t, size, output, value=-1) / level.sqrt().to(z_t.dtype)

    def reverse_step(
        self, x0: Tensor, z_t: Tensor, step: int, spread: Tensor | None = None
    ) -> Tensor:
        """z_{t−1} from the predicted x0 and z_t, all rows at the same step t.

        spread: draws of pure_noise (B, d+1), which add √v_t·spread; None takes the mean.
        """
        z = float(self.mean_x0[step]) * x0 + float(self.mean_zt[step]) * z_t
        return z if spread is None else z + float(self.variance[step]) ** 0.5 * spread

    def table(self) -> list[ScheduleRow]:
        """The schedule step by step; ``acts`` is false where the reverse step changes nothing."""
        columns = (self.beta, self.alpha_bar, self.mean_x0)
        return [
            ScheduleRow(t, beta, level**0.5, (1 - level) ** 0.5, weight, weight >= IDLE)
            for t, (beta, level, weight) in enumerate(zip(*(c.tolist() for c in columns)))
        ]
