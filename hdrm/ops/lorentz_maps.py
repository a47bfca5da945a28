"""Exponential and logarithmic maps, projections and transport on the hyperboloid.

Lorentz model of curvature −c: K = 1/c, r = √K, rows x = (x0, xs) with the time coordinate first
and −x0² + |xs|² = −K, x0 > 0; the origin is (r, 0, …, 0). The spatial part is the truth: a kernel
that reads a point reads xs and recomputes x0 = √(K + |xs|²), so the gradient with respect to a
time coordinate is 0 and drift off the hyperboloid cannot grow.

All functions here take rows of shape (..., d+1), float32 or float64, on one device, and broadcast
their arguments; expmap0 also takes tangent vectors in bfloat16 or float16 and returns float32 points.
They raise TypeError for other dtypes and ValueError for widths, shapes, devices or a curvature that
do not fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import backend, checks
from .distance import half_sinh2
from .radial import across, asinhc, dot, lift, rho_max, sinhc, spatial, within_reach


def expmap0(u: Tensor, *, c: float = 1.0) -> Tensor:
    """Exponential map at the origin: xs = (sinhθ/θ)·us with θ = |us|/r, x0 = √(K + |xs|²).

    u is a tangent vector at the origin; its time coordinate is ignored. Beyond the largest radius
    of the dtype (θ = 43 in float32, 350 in float64, less by ½·ln K where K > 1) the point stays at
    that radius and keeps its direction.

    Gradient: g_us = s·g + us·(h·(us·g)/K + g0·s/r), s = sinhθ/θ, h = (θcoshθ − sinhθ)/θ³.
    """
    c = checks.curvature(c)
    (u,) = checks.rows("expmap0", storage=True, u=u)
    return backend.call("expmap0", u, c)


def logmap0(x: Tensor, *, c: float = 1.0) -> Tensor:
    """Logarithmic map at the origin: us = (asinh z/z)·xs with z = |xs|/r, u0 = 0.

    Gradient: g_xs = a·g + h·xs·(xs·g)/K, a = asinh z/z, h = (z/√(1+z²) − asinh z)/z³.
    """
    c = checks.curvature(c)
    (x,) = checks.rows("logmap0", x=x)
    return backend.call("logmap0", x, c)


def project(x: Tensor, *, c: float = 1.0) -> Tensor:
    """The point of the hyperboloid with x's spatial part: x0 = √(K + |xs|²)."""
    c = checks.curvature(c)
    (x,) = checks.rows("project", x=x)
    return backend.call("project", x, c)


def project_tangent(x: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    """The tangent vector at x with v's spatial part: v0 = (xs·vs)/x0."""
    c = checks.curvature(c)
    x, v = checks.rows("project_tangent", x=x, v=v)
    return backend.call("project_tangent", x, v, c)


def expmap(x: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    """Exponential map at x: ys = coshθ·xs + (sinhθ/θ)·vs with θ = ‖v‖/r, y0 = √(K + |ys|²).

    ‖v‖² = |v⊥|² + K(v·x̂)²/x0², v⊥ being the part of vs orthogonal to xs, has no cancellation.
    v is taken as the tangent vector with its spatial part, as :func:`project_tangent` makes it.
    Beyond the largest radius of the dtype y stays at that radius and keeps its direction, as in
    :func:`expmap0`.
    """
    c = checks.curvature(c)
    x, v = checks.rows("expmap", x=x, v=v)
    return backend.call("expmap", x, v, c)


def logmap(x: Tensor, y: Tensor, *, c: float = 1.0) -> Tensor:
    """Logarithmic map at x: v = φ(w)·(y − x − 2w·x), the tangent vector with expmap(x, v) = y.

    w = sinh²(d/2r) as in :mod:`hdrm.ops.distance`; φ = asinh√w/(√w·√(1+w)).
    """
    c = checks.curvature(c)
    x, y = checks.rows("logmap", x=x, y=y)
    return backend.call("logmap", x, y, c)


def transport(x: Tensor, y: Tensor, v: Tensor, *, c: float = 1.0) -> Tensor:
    """Parallel transport of v from x to y along the geodesic: v + ⟨y,v⟩/(2K(1+w))·(x + y)."""
    c = checks.curvature(c)
    x, y, v = checks.rows("transport", x=x, y=y, v=v)
    return backend.call("transport", x, y, v, c)


def egrad2rgrad(x: Tensor, g: Tensor, *, c: float = 1.0) -> Tensor:
    """Riemannian gradient from the Euclidean g at x: the tangent projection of (−g0, gs).

    v = g' + (⟨x,g'⟩/K)·x with g' = (−g0, gs), i.e. vs = gs + ((x0·g0 + xs·gs)/K)·xs.
    """
    c = checks.curvature(c)
    x, g = checks.rows("egrad2rgrad", x=x, g=g)
    return backend.call("egrad2rgrad", x, g, c)


def _expmap0(u: Tensor, c: float) -> Tensor:
    us = spatial(u)
    return lift(sinhc(dot(us, us) * c, rho_max(c)) * us, c)


def _logmap0(x: Tensor, c: float) -> Tensor:
    xs = spatial(x)
    return torch.cat([torch.zeros_like(x[..., :1]), asinhc(dot(xs, xs) * c) * xs], -1)


def _project(x: Tensor, c: float) -> Tensor:
    return lift(spatial(x), c)


def _tangent(xs: Tensor, vs: Tensor, c: float) -> Tensor:
    return torch.cat([dot(xs, vs) / torch.sqrt(1 / c + dot(xs, xs)), vs], -1)


def _project_tangent(x: Tensor, v: Tensor, c: float) -> Tensor:
    return _tangent(spatial(x), spatial(v), c)


def _expmap(x: Tensor, v: Tensor, c: float) -> Tensor:
    xs, vs = spatial(x), spatial(v)
    tau, rest = across(vs, xs)
    xx = dot(xs, xs)
    q = c * dot(rest, rest) + tau * (tau * (xx / (1 / c + xx)))
    limit = rho_max(c)
    capped = q.clamp(max=limit**2)
    half = sinhc(capped / 4, limit)
    ys = xs + (capped / 2 * half * half) * xs + sinhc(q, limit) * vs
    return lift(within_reach(ys, c), c)


def _logmap(x: Tensor, y: Tensor, c: float) -> Tensor:
    xs, ys = spatial(x), spatial(y)
    w = half_sinh2(x, y, c)
    return _tangent(xs, asinhc(w) / torch.sqrt(1 + w) * (ys - xs - 2 * w * xs), c)


def _transport(x: Tensor, y: Tensor, v: Tensor, c: float) -> Tensor:
    xs, ys, vs = spatial(x), spatial(y), spatial(v)
    # ⟨y,v⟩ = ⟨y − x − 2w·x, v⟩, a product of two vectors tangent at x, split along and across xs:
    # in ambient coordinates it would lose what x0·y0 exceeds it by.
    xx, w = dot(xs, xs), half_sinh2(x, y, c)
    step_tau, step_rest = across(ys - xs, xs)
    v_tau, v_rest = across(vs, xs)
    inner = dot(step_rest, v_rest) + (step_tau - 2 * w) * v_tau * (xx / (1 + c * xx))
    return _tangent(ys, vs + inner * (c / 2) / (1 + w) * (xs + ys), c)


def _egrad2rgrad(x: Tensor, g: Tensor, c: float) -> Tensor:
    xs, gs = spatial(x), spatial(g)
    x0 = torch.sqrt(1 / c + dot(xs, xs))
    return _tangent(xs, gs + (x0 * g[..., :1] + dot(xs, gs)) * c * xs, c)


def _fake(x: Tensor, *rest) -> Tensor:
    return x.new_empty(x.shape, dtype=checks.arithmetic(x.dtype))


for _name, _reference, _arguments in (
    ("expmap0", _expmap0, ("u",)),
    ("logmap0", _logmap0, ("x",)),
    ("project", _project, ("x",)),
    ("project_tangent", _project_tangent, ("x", "v")),
    ("expmap", _expmap, ("x", "v")),
    ("logmap", _logmap, ("x", "y")),
    ("transport", _transport, ("x", "y", "v")),
    ("egrad2rgrad", _egrad2rgrad, ("x", "g")),
):
    backend.define(
        _name,
        "({}, float c) -> Tensor".format(", ".join(f"Tensor {name}" for name in _arguments)),
        reference=_reference,
        fake=_fake,
        differentiable=len(_arguments),
        rowwise=True,
    )
