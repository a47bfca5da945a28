"""The denoising network: an MLP on the noisy vector, the time step and the condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_WIDTH = 10
BLOCK = 2048  # rows that inference takes at a time: their activations stay in the caches


class InPlaceTanh(nn.Module):
    """tanh that overwrites its argument, which a linear layer's backward does not need."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh_(x)


class Mask(nn.Module):
    """x with elements set to 0 with probability p while training, the others as they were.

    Dropout without its factor 1/(1 − p), which :attr:`scale` is. It takes 16 random bits an element,
    so p counts in steps of 2⁻¹⁶: on the CPU torch's dropout draws Bernoulli numbers one by one,
    which takes longer than a layer here. Of a share of a batch the whole batch's bits are drawn: the
    processes that have the other shares leave their generators in the same state, and the mask is
    the one that a single process would have.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be a probability from 0 to below 1, got {p}")
        self.kept = max(round((1 - p) * 2**16), 1)

    @property
    def scale(self) -> float:
        return 2**16 / self.kept if self.training else 1.0

    def forward(self, x: Tensor, rows: tuple[int, int] | None = None) -> Tensor:
        """``rows``: the number of x's first row and how many rows the batch has; None: x is all."""
        if not self.training or self.kept == 2**16:
            return x
        first, total = rows or (0, len(x))
        mine = slice(first, first + len(x))
        if torch.compiler.is_compiling():  # which cannot trace random_ of a range
            drawn = torch.rand(total, *x.shape[1:], dtype=x.dtype, device=x.device)
            return x * (drawn[mine] < self.kept / 2**16)
        count = total * math.prod(x.shape[1:])
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None).view(torch.int16)[:count]
        return x * (bits.view(total, *x.shape[1:])[mine] < self.kept - 2**15)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": InPlaceTanh,
    "relu": partial(nn.ReLU, inplace=True),
}


class Denoiser(nn.Module):
    """MLP [dropout(z_t), Linear(time embedding), condition] → hidden → … → dim.

    Args:
        dim: width d+1 of tangent vectors at the origin.
        hidden: widths of the hidden layers.
        activation: "tanh" or "relu".
        dropout: of z_t, while training.
        from_zero: the last layer starts at zero, and so does the output.

    Weights are Xavier-normal, biases N(0, 0.001²), from torch's generator.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int],
        activation: str,
        dropout: float,
        *,
        from_zero: bool = True,
    ) -> None:
        super().__init__()
        self.time = nn.Linear(TIME_WIDTH, TIME_WIDTH)
        self.mask = Mask(dropout)
        widths = [2 * dim + TIME_WIDTH, *hidden, dim]
        layers: list[nn.Module] = []
        for width, following in zip(widths, widths[1:]):
            layers += [nn.Linear(width, following), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.normal_(layer.bias, 0.0, 0.001)
        if from_zero:
            last = self._ends()[1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def _ends(self) -> tuple[nn.Linear, nn.Linear]:
        """The first and the last layer."""
        return cast(nn.Linear, self.layers[0]), cast(nn.Linear, self.layers[-1])

    def forward(
        self, z_t: Tensor, t: Tensor, condition: Tensor, *, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """Tangent vectors (B, dim) from z_t (B, dim), t int64 (B,) or (1,), condition (B, dim).

        The time column of the result is 0, as a tangent vector at the origin has it.

        ``rows``: where z_t is a slice of a batch, the number of its first row and how many rows the
        batch has. Dropout is then that of the batch, from torch's generator in the same state, and
        leaves the generator as the batch does. ValueError if the batch ends before z_t.
        """
        if rows is not None and not 0 <= rows[0] <= rows[1] - len(z_t):
            raise ValueError(
                f"rows must be the first of {len(z_t)} rows and the number of rows of a batch that "
                f"has them all, got {rows[0]} and {rows[1]}"
            )
        return self.denoise(z_t, t, self.prepare(condition), rows)

    # The first layer in three parts: nothing is concatenated, the gradient stops at parameters, and
    # what the condition adds is the same in every step of a reverse process.

    def prepare(self, condition: Tensor) -> Tensor:
        """What :meth:`denoise` needs of the condition (B, dim)."""
        first = self._ends()[0]
        return F.linear(condition, first.weight[:, -condition.shape[1] :], first.bias)

    def denoise(
        self, z_t: Tensor, t: Tensor, prepared: Tensor, rows: tuple[int, int] | None = None
    ) -> Tensor:
        """forward, of a condition that was prepared."""
        # While training there is one mask, of the whole batch.
        if self.training or torch.is_grad_enabled() or len(z_t) <= BLOCK:
            return self._rows(z_t, t, prepared, rows)
        out = torch.empty_like(z_t)
        for start in range(0, len(z_t), BLOCK):
            part = slice(start, start + BLOCK)
            out[part] = self._rows(z_t[part], t if len(t) == 1 else t[part], prepared[part])
        return out

    def _rows(
        self, z_t: Tensor, t: Tensor, prepared: Tensor, rows: tuple[int, int] | None = None
    ) -> Tensor:
        (first, last), dim = self._ends(), z_t.shape[1]
        time = self.time(time_embedding(t, TIME_WIDTH).to(z_t.dtype))
        h = prepared + F.linear(time, first.weight[:, dim : dim + TIME_WIDTH])
        h = torch.addmm(h, self.mask(z_t, rows), first.weight[:, :dim].T, alpha=self.mask.scale)
        h = self.layers[1:-1](h)
        return F.linear(h, F.pad(last.weight[1:], (0, 0, 1, 0)), F.pad(last.bias[1:], (1, 0)))


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[cos(t·ω_k), sin(t·ω_k)], ω_k = 10000^(−k/(width/2)): float32 (B, width), width even."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) / half * torch.arange(half, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
