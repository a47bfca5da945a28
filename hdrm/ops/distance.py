"""Lorentz distance: d = 2r·asinh(√w) from a w that is computed without cancellation.

With K = 1/c, r = √K, δ = xs − ys, s = xs + ys, a = |xs|, b = |ys|:

    w = sinh²(d/2r) = ρ²/(2(1 + √(1+ρ²))) + A
    ρ = (δ·s)/(a·y0 + b·x0)                 sinh of the difference of the two radii
    A = (a·b − xs·ys)/(2K)                  the angle's share

The textbook form arcosh(−⟨x,y⟩/K) subtracts two numbers of size cosh(ρx)·cosh(ρy) from each
other; every term here is a sum of non-negative ones, and a·b − xs·ys itself is taken from the
part of δ orthogonal to the longer vector whenever the angle is acute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, checks
from .radial import across, asinhc, dot, nonzero, norm_of, rho_max, sinhc, spatial


def distance(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    """Geodesic distance d(x, y) = 2r·asinh(√w) between points of the hyperboloid.

    Args:
        x, y: points, shapes (..., d+1), broadcast against each other; float32 or float64. Only
            the spatial parts are read.
        c: the space has curvature −c; r = 1/√c.

    Returns:
        Shape (...), in units of length of the manifold. The gradient at x = y, where the
        distance has none, is 0.

    Raises:
        TypeError, ValueError: dtypes, widths, devices or shapes do not fit, or c ≤ 0.
    """
    c = checks.curvature(c)
    x, y = checks.rows("distance", x=x, y=y)
    return backend.call("distance", x, y, c)


def sqdist(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    """Squared distance d²(x, y) = 4K·asinh²(√w); arguments and errors as :func:`distance`.

    Its gradient is smooth everywhere: ∂d²/∂w = 4K·φ(w) with φ = asinh√w/(√w·√(1+w)) → 1.
    """
    c = checks.curvature(c)
    x, y = checks.rows("sqdist", x=x, y=y)
    return backend.call("sqdist", x, y, c)


def sqdist0(u: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    """Squared distance between expmap0(u) and expmap0(v), straight from the tangent vectors.

        w = sinh²((ρu − ρv)/2) + sinhρu·sinhρv·(1 − û·v̂)/2,   ρ = |·|/r

    so that no point is formed and no radius is recovered from a large coordinate. Arguments and
    errors as :func:`distance`; u and v are tangent vectors at the origin, their time coordinates
    are ignored. They may also be bfloat16 or float16; the result is then float32.
    """
    c = checks.curvature(c)
    u, v = checks.rows("sqdist0", storage=True, u=u, v=v)
    return backend.call("sqdist0", u, v, c)


def angle_gap(x: Tensor, y: Tensor, xx: Tensor, yy: Tensor) -> Tensor:
    """|x||y| − x·y ≥ 0 of spatial rows with squared norms xx, yy, without cancellation."""
    longer_is_x = xx >= yy
    long, short = torch.where(longer_is_x, x, y), torch.where(longer_is_x, y, x)
    long_norm = norm_of(torch.where(longer_is_x, xx, yy))
    short_norm = norm_of(torch.where(longer_is_x, yy, xx))
    xy, delta = dot(x, y), x - y
    acute = xy > 0
    # δ and the short one have the same part across the long one; the shorter of them rounds less.
    _, rest = across(torch.where(dot(delta, delta) < dot(short, short), delta, short), long)
    along = xy / nonzero(long_norm)
    total = torch.where(acute, short_norm + along, torch.ones_like(xy))
    size = norm_of(dot(rest, rest))
    return torch.where(acute, long_norm * size * (size / total), long_norm * short_norm - xy)


def half_sinh2(x: Tensor, y: Tensor, c: float) -> Tensor:
    """w = sinh²(d/2r) of points given by full rows; shape (..., 1)."""
    xs, ys = spatial(x), spatial(y)
    xx, yy = dot(xs, xs), dot(ys, ys)
    x0, y0 = torch.sqrt(1 / c + xx), torch.sqrt(1 / c + yy)
    rho = dot(xs - ys, xs + ys) / nonzero(norm_of(xx) * y0 + norm_of(yy) * x0)
    return rho * (rho / (2 * (1 + torch.sqrt(1 + rho * rho)))) + angle_gap(xs, ys, xx, yy) * c / 2


def _half_sinh2_tangent(u: Tensor, v: Tensor, c: float) -> Tensor:
    us, vs = spatial(u), spatial(v)
    uu, vv = dot(us, us), dot(vs, vs)
    limit = rho_max(c)
    radial = dot(us - vs, us + vs) / nonzero(norm_of(uu) + norm_of(vv))
    half = radial * radial * (c / 4)
    su, sv = sinhc(uu * c, limit), sinhc(vv * c, limit)
    return half * sinhc(half, limit) ** 2 + su * (angle_gap(us, vs, uu, vv) * (c / 2)) * sv


def _distance(x: Tensor, y: Tensor, c: float) -> Tensor:
    w = half_sinh2(x, y, c)
    return (2 * c**-0.5 * norm_of(w) * asinhc(w)).squeeze(-1)


def _squared(w: Tensor, c: float) -> Tensor:
    return (4 / c * w * asinhc(w) ** 2).squeeze(-1)


def _sqdist(x: Tensor, y: Tensor, c: float) -> Tensor:
    return _squared(half_sinh2(x, y, c), c)


def _sqdist0(u: Tensor, v: Tensor, c: float) -> Tensor:
    return _squared(_half_sinh2_tangent(u, v, c), c)


def _fake(x: Tensor, y: Tensor, c: float) -> Tensor:
    return x.new_empty(x.shape[:-1], dtype=checks.arithmetic(x.dtype))


for _name, _reference in (("distance", _distance), ("sqdist", _sqdist)):
    backend.define(
        _name,
        "(Tensor x, Tensor y, float c) -> Tensor",
        reference=_reference,
        fake=_fake,
        differentiable=2,
        rowwise=True,
    )
backend.define(
    "sqdist0",
    "(Tensor u, Tensor v, float c) -> Tensor",
    reference=_sqdist0,
    fake=_fake,
    differentiable=2,
    rowwise=True,
)
