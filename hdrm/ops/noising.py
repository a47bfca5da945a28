"""The diffusion's forward step on tangent vectors, with isotropic or directional noise.

    isotropic:    z_t = a·z0 + b·ε
    directional:  z_t = a·z0 + b·ε̄,   ε̄ = μ + σ ⊙ (sgn(z0) ⊙ |ε|)
    a = √ᾱ_t + growth·tanh(√c·t/T),   b = √(1 − ᾱ_t)

μ and σ are the mean and the unbiased standard deviation of z0's columns over the batch: the noise
keeps the sign of every coordinate and the scale of every dimension (Yuan et al., WWW 2025). ε is
N(0, 1), drawn inside the kernel from Philox (:mod:`hdrm.ops.philox`): element (row, k) is component
k mod 4 of ``randn4x(seed, (first_row + row)·⌈(d+1)/4⌉ + ⌊k/4⌋)``, so that a slice of a table can be
noised as it would be in the table. It is never stored; the backward makes it again. The time column
of the result is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import backend, checks, philox


def directional_noise(
    z0: Tensor,
    t: Tensor,
    alpha_bar: Tensor,
    *,
    seed: int | Tensor | None = None,
    first_row: int = 0,
    statistics: tuple[Tensor, Tensor] | None = None,
    growth: float = 0.0,
    c: float = 1.0,
) -> Tensor:
    """Noise z0 to step t with directional noise; see the module's formula.

    Args:
        z0: tangent vectors at the origin (B, d+1), any floating point dtype. 16 bits are widened to
            float32 where the kernel reads them, and the result is rounded once where it is written.
        t: int64 (B,), the step of each row, 0 ≤ t < T. Others are refused on the CPU; a GPU would
            have to be waited for, so there nothing is looked up for them and their rows are NaN.
        alpha_bar: floating point (T,), the cumulative products ᾱ. Has no gradient.
        seed: of the noise; None draws it from torch's generator, so ``torch.manual_seed`` rules.
        first_row: the number of z0's first row in a larger table, whose rows first_row,
            first_row + 1, … get the same noise from the same seed; at least 0, and
            (first_row + B)·⌈(d+1)/4⌉ < 2⁶³.
        statistics: (μ, σ), each (d+1,), to use instead of the batch's own, float32 where z0 has 16
            bits; nothing is differentiated through them unless they require gradients themselves.
        growth: the radial growth δ; 0 leaves it out.
        c: the curvature is −c; only radial growth uses it.

    Returns:
        z_t (B, d+1), dtype as z0. Its gradient flows through a·z0 and through μ and σ; sgn has
        gradient 0. In 16 bits each of the two parts is rounded, and so is their sum.

    Raises:
        TypeError, ValueError: shapes, dtypes or devices do not fit, first_row is no whole number
            or out of range, growth < 0 or c ≤ 0.
        RuntimeError: a step is not in 0 … T−1 (on the CPU; the reference raises an IndexError).
    """
    alpha_bar, root_c = _schedule("directional_noise", z0, t, alpha_bar, first_row, c)
    if not 0 <= growth < math.inf:
        raise ValueError(f"directional_noise: growth must be at least 0 and finite, got {growth!r}")
    if statistics is None:
        mean, std = column_statistics(z0)
    else:
        if isinstance(statistics, Tensor) or not all(isinstance(of, Tensor) for of in statistics):
            raise TypeError("directional_noise: statistics must be two tensors, mean and std")
        mean, std = statistics
        wide = z0.new_empty(0, dtype=checks.arithmetic(z0.dtype))
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != z0.shape[1:]:
                raise ValueError(
                    f"directional_noise: statistics' {name} must have shape {tuple(z0.shape[1:])}, "
                    f"got {tuple(value.shape)}"
                )
            checks.same_as("directional_noise", "the arithmetic of z0", wide, name, value)
    seed = philox.seed_tensor(seed, z0.device)
    return backend.call(
        "directional_noise", z0, mean, std, t, alpha_bar, seed, float(growth), root_c, first_row
    )


def isotropic_noise(
    z0: Tensor,
    t: Tensor,
    alpha_bar: Tensor,
    *,
    seed: int | Tensor | None = None,
    first_row: int = 0,
    growth: float = 0.0,
    c: float = 1.0,
) -> Tensor:
    """Noise z0 to step t with isotropic noise; arguments and errors as directional_noise."""
    alpha_bar, root_c = _schedule("isotropic_noise", z0, t, alpha_bar, first_row, c)
    seed = philox.seed_tensor(seed, z0.device)
    return backend.call("isotropic_noise", z0, t, alpha_bar, seed, float(growth), root_c, first_row)


def column_statistics(z0: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of each column of z0 (B, d+1); two tensors (d+1,).

    A single row has no unbiased deviation: its σ is 0. The time column's statistics are 0. A
    column without spread has σ = 0 and passes no gradient through it. They are float32 where z0 has
    16 bits.

    Raises:
        TypeError, ValueError: z0 is not a floating point matrix, or has no row.
    """
    checks.table("column_statistics", storage=True, z0=z0)
    if z0.shape[0] == 0:
        raise ValueError("column_statistics: z0 must have at least one row, got none")
    return backend.call("column_statistics", z0)


def _schedule(
    op: str, z0: Tensor, t: Tensor, alpha_bar: Tensor, first_row: int, c: float
) -> tuple[Tensor, float]:
    """ᾱ in float64 and √c, after a look at the arguments that both kinds of noise have."""
    c = checks.curvature(c)
    checks.table(op, storage=True, z0=z0)
    checks.ids(op, "t", t, (z0.shape[0],), z0.device)
    if not isinstance(alpha_bar, Tensor):
        raise TypeError(f"{op}: alpha_bar must be a tensor, got {type(alpha_bar).__name__}")
    if alpha_bar.dim() != 1 or not alpha_bar.is_floating_point():
        raise ValueError(
            f"{op}: alpha_bar must be a floating point vector (T,), got {alpha_bar.dtype} of "
            f"shape {tuple(alpha_bar.shape)}"
        )
    if alpha_bar.device != z0.device:
        raise ValueError(f"{op}: alpha_bar must be on {z0.device}, got {alpha_bar.device}")
    checks.whole(op, "first_row", first_row)
    if first_row != 0:  # 0 always fits, and small tables wait for every look
        most = (2**63 - 1) // _quads(z0) - z0.shape[0]  # the indices of Philox are kept in int64
        if not 0 <= first_row <= most:
            raise ValueError(f"{op}: first_row must be from 0 to {most}, got {first_row}")
    return alpha_bar if alpha_bar.dtype == torch.float64 else alpha_bar.double(), c**0.5


def _quads(z0: Tensor) -> int:
    """How many indices of Philox a row takes."""
    return -(-z0.shape[1] // 4)


def _levels(t: Tensor, alpha_bar: Tensor, growth: float, root_c: float) -> tuple[Tensor, Tensor]:
    """a and b of each row, as columns."""
    level = alpha_bar.index_select(0, t)
    signal = level.sqrt()
    if growth:
        time = root_c * t.to(level.dtype) / alpha_bar.numel()
        signal = signal + growth * torch.tanh(time)
    return signal[:, None], (1 - level).sqrt()[:, None]


def _normals(z0: Tensor, seed: Tensor, first_row: int) -> Tensor:
    """ε for every element of z0, in z0's dtype."""
    (num_rows, width), quads = z0.shape, _quads(z0)
    index = torch.arange(num_rows * quads, device=z0.device).view(num_rows, quads)
    index = index + first_row * quads
    return philox.randn4x(seed, index).flatten(1)[:, :width].to(z0.dtype)


def _without_time(z: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(z[..., :1]), z[..., 1:]], -1)


def _directional(
    z0: Tensor,
    mean: Tensor,
    std: Tensor,
    t: Tensor,
    alpha_bar: Tensor,
    seed: Tensor,
    growth: float,
    root_c: float,
    first_row: int,
) -> Tensor:
    a, b = _levels(t, alpha_bar, growth, root_c)
    direction = mean + std * (torch.sgn(z0.detach()) * _normals(z0, seed, first_row).abs())
    return _without_time(a * z0 + b * direction)


def _isotropic(
    z0: Tensor,
    t: Tensor,
    alpha_bar: Tensor,
    seed: Tensor,
    growth: float,
    root_c: float,
    first_row: int,
) -> Tensor:
    a, b = _levels(t, alpha_bar, growth, root_c)
    return _without_time(a * z0 + b * _normals(z0, seed, first_row))


def _statistics(z0: Tensor) -> tuple[Tensor, Tensor]:
    z0 = _without_time(z0)  # here, so that nothing in the time column reaches a gradient
    first = z0[0].detach()  # taken off: a column without spread then has exactly none
    shifted = z0 - first
    mean = shifted.mean(0)
    variance = ((shifted - mean) ** 2).sum(0) / max(z0.shape[0] - 1, 1)
    spread = variance > 0
    std = torch.where(spread, torch.sqrt(torch.where(spread, variance, 1.0)), 0.0)
    return first + mean, std


backend.define(
    "directional_noise",
    "(Tensor z0, Tensor mean, Tensor std, Tensor t, Tensor alpha_bar, Tensor seed, float growth, "
    "float root_c, SymInt first_row) -> Tensor",
    reference=_directional,
    fake=lambda z0, *rest: z0.new_empty(z0.shape),
    differentiable=3,
)
backend.define(
    "isotropic_noise",
    "(Tensor z0, Tensor t, Tensor alpha_bar, Tensor seed, float growth, float root_c, "
    "SymInt first_row) -> Tensor",
    reference=_isotropic,
    fake=lambda z0, *rest: z0.new_empty(z0.shape),
    differentiable=1,
    unread={
        "z0": torch.zeros_like,
        "seed": lambda grad: grad.new_zeros(1, dtype=torch.int64),
        "first_row": lambda grad: 0,
    },
)
backend.define(
    "column_statistics",
    "(Tensor z0) -> (Tensor, Tensor)",
    reference=_statistics,
    fake=lambda z0: tuple(
        z0.new_empty(z0.shape[1:], dtype=checks.arithmetic(z0.dtype)) for _ in range(2)
    ),
    differentiable=1,
)
