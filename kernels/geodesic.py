"""Rows along geodesics: what the maps, their gradients and the optimiser steps share.

The forms are those of csrc/rows/lorentz_maps.h. A vector v at x is split as
v = (τ + again)·xs + v⊥, ``again`` being what the second orthogonalisation finds; v⊥ is what is left
where v and the ray through x nearly cancel.
"""

import triton
import triton.language as tl

from .distance import across_x, between_points, measure
from .radial import arc, exponential, ratio, root, sinh_large, sinhc
from .tiles import chunk, num_chunks, spatial, zero


@triton.jit
def off(v, xs, tau):
    """v − τ·xs."""
    return tl.fma(-tau[:, None], xs, v)


@triton.jit
def across(v, xs, split):
    """v⊥."""
    tau, again = split
    return off(v, xs, tau) - again[:, None] * xs


@triton.jit
def point_and_vector(x, v, mine, width, T: tl.constexpr, D: tl.constexpr):
    """|xs|² and xs·vs."""
    xx, xv = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, vs = spatial(x, tile, T), spatial(v, tile, T)
        xx += tl.sum(xs * xs, 1)
        xv += tl.sum(xs * vs, 1)
    return xx, xv


@triton.jit
def finish_split(xx, tau, again, rest2, c):
    """From the sums again = (v − τ·xs)·xs and rest2 = |v − τ·xs|²: the split of v, and (|v⊥|², q)
    with q = (‖v‖/r)² from ‖v‖² = |v⊥|² + K(v·x̂)²/x0².
    """
    found = ratio(again, root(xx))  # the square of `again` overflows far out
    rest2 = tl.maximum(rest2 - found * found, 0.0)
    again = ratio(again, xx)
    along = tau + again
    return (tau, again), (rest2, c * rest2 + along * (along * (xx / (1 / c + xx))))


@triton.jit
def geodesic(xx, split, norms, c, limit):
    """The geodesic that leaves x with velocity v: y = (start + turn)·xs + side·v⊥.

    Returns (start, turn, side) for :func:`arrive`, and (w, s, keep): w = sinh²(θ/2), s = sinhθ/θ,
    θ = ‖v‖/r, and keep = 1, or less where the end lies beyond the range and is drawn back. ``start``
    is keep, or 0 where nothing of xs is worth keeping apart.
    """
    tau, again = split
    rest2, q = norms
    capped = tl.minimum(q, limit * limit)
    s = sinhc(capped * 0.25, limit)
    w = capped * 0.25 * s * s
    s = sinhc(q, limit)
    # A step towards the origin makes cosh·a and s·(v·x̂), a = |xs|, nearly cancel. With α the angle
    # between v and the ray, cosα < 0, and ρ = asinh(a/r), their sum is
    #   r·sinh(ρ − θ) + x0·sinhθ·(1 + cosα),    1 + cosα = sin²α/(1 − cosα).
    z2 = c * xx
    z, x0_over_r, theta = root(z2), root(1 + z2), root(q)
    along, off2 = (tau + again) * ratio(z, x0_over_r), c * rest2  # θ·cosα, (θ·sinα)²
    turns = ratio(z + x0_over_r, exponential(tl.minimum(theta, limit)))  # e^(ρ − θ)
    inward = (turns - 1 / turns) * 0.5
    inward += x0_over_r * (theta * s) * ratio(off2, q - theta * along)
    far_inward = (along < 0) & (q > 1)
    start = tl.where(far_inward, 0.0, 1.0).to(xx.dtype)
    turn = tl.where(far_inward, ratio(inward, z), 2 * w + s * (tau + again))
    # Beyond the largest radius the point stays there, in its direction.
    reach = sinh_large(limit)
    on, beside = (start + turn) * (z / reach), s / reach
    over = on * on + beside * (beside * off2)
    keep = tl.where(over > 1, 1 / root(tl.maximum(over, 1.0)), 1.0)
    # On the ray v⊥ is rounding, which s may be large enough to blow up.
    side = tl.where((rest2 > 0) | (along * along == 0), keep * s, 0.0)
    return (keep * start, keep * turn, side), (w, s, keep)


@triton.jit
def arrive(xs, v, split, line):
    """The spatial part of the geodesic's end."""
    start, turn, side = line
    end = turn[:, None] * xs + side[:, None] * across(v, xs, split)
    return start[:, None] * xs + end


@triton.jit
def exponential_map(x, v, mine, width, c, limit, T: tl.constexpr, D: tl.constexpr):
    """expmap(x, v) up to :func:`arrive`: (|xs|², xs·vs), v's split and norms, the geodesic."""
    xx, xv = point_and_vector(x, v, mine, width, T, D)
    tau = ratio(xv, xx)
    again, rest2 = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        rest = off(spatial(v, tile, T), xs, tau)
        again += tl.sum(rest * xs, 1)
        rest2 += tl.sum(rest * rest, 1)
    split, norms = finish_split(xx, tau, again, rest2, c)
    line, hyperbolic = geodesic(xx, split, norms, c, limit)
    return (xx, xv), split, norms, line, hyperbolic


@triton.jit
def logarithmic_map(x, y, mine, width, c, T: tl.constexpr, D: tl.constexpr):
    """logmap(x, y) up to :func:`log_vector`: x0², w and its gradient, δ's two splits, (φ, 2wφ)."""
    sums, gap, x_split, y_split = measure(x, y, mine, width, T, D)
    w, slope = between_points(sums, gap, c)
    xx, _, _ = sums
    phi = arc(w)
    return 1 / c + xx, (w, slope), x_split, y_split, (phi, 2 * (w * phi))


@triton.jit
def log_vector(xs, ys, scales):
    """φ·(ys − xs) − 2wφ·xs: far out w·xs overflows, wφ does not."""
    phi, shrink = scales
    return phi[:, None] * (ys - xs) - shrink[:, None] * xs


@triton.jit
def parallel_transport(x, y, v, mine, width, c, T: tl.constexpr, D: tl.constexpr):
    """transport(x, y, v) = v + κ·(x + y) up to the sum; κ = ⟨y,v⟩/(2K(1+w)).

    With ⟨y,v⟩ = −(2K·∂w/∂xs)·vs the product inherits the cancellation-free split of the gradient.
    Returns κ, 2K(1+w), (x0, y0), (xs·vs, τ of v), the gradient of w and δ's two splits.
    """
    sums, gap, x_split, y_split = measure(x, y, mine, width, T, D)
    w, slope = between_points(sums, gap, c)
    xx, yy, _ = sums
    on_x, _, _ = slope
    _, xv = point_and_vector(x, v, mine, width, T, D)
    tau_v = ratio(xv, xx)
    crossing = zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        v_rest = off(spatial(v, tile, T), xs, tau_v)
        crossing += tl.sum(across_x(xs, spatial(y, tile, T), x_split) * v_rest, 1)
    twice = 2 / c * (1 + w)
    kappa = -(crossing + 2 / c * on_x * xv) / twice
    return kappa, twice, (root(1 / c + xx), root(1 / c + yy)), (xv, tau_v), slope, x_split, y_split


@triton.jit
def transported(xs, ys, v, kappa):
    return v + kappa[:, None] * (xs + ys)
