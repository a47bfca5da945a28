"""Functions of a squared radius, in plain torch, with finite derivatives at 0.

They take q = θ² so that autograd never meets the derivative of a square root at 0.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

RHO_MAX = {torch.float32: 43.0, torch.float64: 350.0}
_range: ContextVar[torch.dtype] = ContextVar("_range", default=torch.float64)


@contextlib.contextmanager
def range_of(dtype: torch.dtype) -> Iterator[None]:
    """Inside, radii saturate where ``dtype`` ends, though the computation is in float64."""
    token = _range.set(dtype)
    try:
        yield
    finally:
        _range.reset(token)


def rho_max(c: float) -> float:
    """Largest radius over r = 1/√c at which |xs|² and its products are still finite."""
    return RHO_MAX[_range.get()] - max(0.0, -0.5 * math.log(c))


def _split(q: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    """q where the series applies (else 0), and √q where it does not (else 1)."""
    zero, one = torch.zeros_like(q), torch.ones_like(q)
    return torch.where(small, q, zero), torch.sqrt(torch.where(small, one, q))


def sinhc(q: Tensor, limit: float) -> Tensor:
    """sinh(θ)/θ at θ = √q; beyond ``limit`` the numerator stays sinh(limit)."""
    small = q < 1e-3
    s, theta = _split(q, small)
    series = 1 + s / 6 * (1 + s / 20 * (1 + s / 42 * (1 + s / 72 * (1 + s / 110))))
    e = torch.expm1(theta.clamp(max=limit))
    return torch.where(small, series, (e + e / (e + 1)) / (2 * theta))


def asinhc(q: Tensor) -> Tensor:
    """asinh(z)/z at z = √q."""
    small = q < 1e-3
    s, z = _split(q, small)
    series = 1 - s * (1 / 6 - s * (3 / 40 - s * (5 / 112 - s * (35 / 1152 - s * 63 / 2816))))
    direct = torch.log1p(z + z * (z / (1 + torch.sqrt(1 + z * z)))) / z
    return torch.where(small, series, direct)


def spatial(x: Tensor) -> Tensor:
    """The coordinates 1 … d of each row: all that a kernel believes of a point."""
    return x[..., 1:]


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def nonzero(q: Tensor) -> Tensor:
    """q with its zeros replaced by 1: a divisor that is used only where q > 0."""
    return torch.where(q > 0, q, torch.ones_like(q))


def norm_of(q: Tensor) -> Tensor:
    """√q with derivative 0 at q = 0."""
    return torch.where(q > 0, torch.sqrt(nonzero(q)), torch.zeros_like(q))


def lift(xs: Tensor, c: float) -> Tensor:
    """The point of the hyperboloid with spatial part xs: x0 = √(K + |xs|²)."""
    return torch.cat([torch.sqrt(1 / c + dot(xs, xs)), xs], -1)


def within_reach(xs: Tensor, c: float) -> Tensor:
    """xs, or where it lies beyond the largest radius the end of the range in its direction."""
    reach = math.sinh(rho_max(c)) / c**0.5
    return xs / norm_of(dot(xs / reach, xs / reach)).clamp(min=1)


def across(v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Split v = τ·x + v⊥; v⊥ is orthogonalised twice. Returns (τ, v⊥); τ = 0 where x = 0."""
    q = nonzero(dot(x, x))
    tau = dot(v, x) / q
    rest = v - tau * x
    again = dot(rest, x) / q
    return tau + again, rest - again * x
