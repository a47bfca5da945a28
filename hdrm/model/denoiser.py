"""The denoising network: an MLP on the noisy vector, the time step and the condition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_WIDTH = 10


class InPlaceTanh(nn.Module):
    """tanh that overwrites its argument, which a linear layer's backward does not need."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh_(x)


ACTIVATIONS = {"tanh": InPlaceTanh, "relu": partial(nn.ReLU, inplace=True)}


class Denoiser(nn.Module):
    """MLP [dropout(z_t), Linear(time embedding), condition] → hidden → … → dim.

    Args:
        dim: width d+1 of tangent vectors at the origin.
        hidden: widths of the hidden layers.
        activation: "tanh" or "relu".
        dropout: of z_t, while training.

    Weights are Xavier-normal, biases N(0, 0.001²), from torch's generator.
    """

    def __init__(self, dim: int, hidden: Sequence[int], activation: str, dropout: float) -> None:
        super().__init__()
        self.time = nn.Linear(TIME_WIDTH, TIME_WIDTH)
        self.dropout = nn.Dropout(dropout)
        widths = [2 * dim + TIME_WIDTH, *hidden, dim]
        layers: list[nn.Module] = []
        for width, following in zip(widths, widths[1:]):
            layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.normal_(layer.bias, 0.0, 0.001)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Tangent vectors (B, dim) from z_t (B, dim), t int64 (B,) or (1,), condition (B, dim).

        The time column of the result is 0, as a tangent vector at the origin has it.
        """
        time = self.time(time_embedding(t, TIME_WIDTH).to(z_t.dtype)).expand(len(z_t), -1)
        out = self.layers(torch.cat([self.dropout(z_t), time, condition], -1))
        return F.pad(out[:, 1:], (1, 0))


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[cos(t·ω_k), sin(t·ω_k)], ω_k = 10000^(−k/(width/2)): float32 (B, width), width even."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
