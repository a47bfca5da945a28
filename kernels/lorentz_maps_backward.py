"""Gradients of the maps in lorentz_maps.py; formulas in csrc/rows/lorentz_maps_backward.h.

``g`` is the gradient of the map's result, g0 its time coordinate. The gradient of a point's or a
tangent vector's time coordinate is 0.
"""

import triton
import triton.language as tl

from .distance import across_x, across_y
from .geodesic import (
    across,
    arrive,
    exponential_map,
    log_vector,
    logarithmic_map,
    off,
    parallel_transport,
    point_and_vector,
    transported,
)
from .launch import WIDE, tuned_tiles
from .radial import arc_along, asinhc, asinhc_along, number, ratio, root, sinhc, sinhc_slope
from .tiles import chunk, my_rows, num_chunks, spatial, times, write, zero

EXPMAP0, LOGMAP0, PROJECT = (tl.constexpr(kind) for kind in range(3))


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def scaling_backward_kernel(
    g, x, gx, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    MAP: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """expmap0, logmap0 and project: on_g·gs + on_x·xs."""
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, xg = point_and_vector(x, g, mine, width, T, D)
    q = xx * c
    if MAP == EXPMAP0:
        on_g = sinhc(q, limit)
        on_x = sinhc_slope(q, limit) * xg * c + times(g, mine, width, T) * on_g * root(c)
        on_x = tl.where(q > limit * limit, -on_g * ratio(xg, xx), on_x)
    elif MAP == LOGMAP0:
        on_g = asinhc(q)
        on_x = asinhc_along(q, on_g) * ratio(xg, xx)
    else:
        on_g = zero(mine, T) + 1
        on_x = times(g, mine, width, T) / root(1 / c + xx)
    on_g, on_x = on_g[:, None], on_x[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(gx, tile, on_g * spatial(g, tile, T) + on_x * spatial(x, tile, T), 0.0)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def project_tangent_backward_kernel(
    g, x, v, gx, gv, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """With v0 = xs·vs/x0: ∂v0/∂vs = xs/x0, ∂v0/∂xs = (vs − (v0/x0)·xs)/x0."""
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, xv = point_and_vector(x, v, mine, width, T, D)
    time = (times(g, mine, width, T) / root(1 / c + xx))[:, None]
    shift = (xv / (1 / c + xx))[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        gs, xs, vs = spatial(g, tile, T), spatial(x, tile, T), spatial(v, tile, T)
        write(gx, tile, time * (vs - shift * xs), 0.0)
        write(gv, tile, gs + time * xs, 0.0)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def egrad2rgrad_backward_kernel(
    h, x, g, gx, gg, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """h is the gradient of the result. The time coordinate of g is read, so it has one too."""
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, xg = point_and_vector(x, g, mine, width, T, D)
    _, xh = point_and_vector(x, h, mine, width, T, D)
    g0, x0 = times(g, mine, width, T), root(1 / c + xx)
    time = times(h, mine, width, T) / x0
    share, v0 = c * (x0 * g0 + xg), c * (x0 * xg + g0 * xx)
    of_share = c * (xh + time * xx)
    on_x = (2 * share * time + of_share * g0 / x0 - time * v0 / x0)[:, None]
    on_g, g_time = (of_share + time)[:, None], (of_share * x0)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        hs, xs, gs = spatial(h, tile, T), spatial(x, tile, T), spatial(g, tile, T)
        write(gx, tile, share[:, None] * hs + on_x * xs + on_g * gs, 0.0)
        write(gg, tile, hs + on_g * xs, g_time)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def expmap_backward_kernel(
    g, x, v, gx, gv, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """With h = gs + (g0/y0)·ys, t = vs − (v0/x0)·xs = v⊥ + τ(K/x0²)·xs and s = sinhθ/θ:

    e = s·(h·xs) + slope·(h·vs), the gradient of q, doubled
    gv = s·h + c·e·t,   gx = coshθ·h − c·e·(v0/x0)·t

    Where y was drawn back to the largest radius it only turns: h is keep·(gs − (gs·ŷ)·ŷ).
    """
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    sums, split, norms, line, hyperbolic = exponential_map(x, v, mine, width, c, limit, T, D)
    xx, xv = sums
    tau, again = split
    _, q = norms
    w, s, keep = hyperbolic
    none = zero(mine, T)
    yy, yx, yv, gx_, gv_, gy_ = none, none, none, none, none, none
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        gs, xs, vs = spatial(g, tile, T), spatial(x, tile, T), spatial(v, tile, T)
        ys = arrive(xs, vs, split, line)
        yy += tl.sum(ys * ys, 1)
        yx += tl.sum(ys * xs, 1)
        yv += tl.sum(ys * vs, 1)
        gx_ += tl.sum(gs * xs, 1)
        gv_ += tl.sum(gs * vs, 1)
        gy_ += tl.sum(gs * ys, 1)
    time = times(g, mine, width, T) / root(1 / c + yy)
    time = tl.where(keep < 1, ratio(-gy_, yy), time)
    e = c * keep * (s * (gx_ + time * yx) + sinhc_slope(q, limit) * (gv_ + time * yv))
    on_t = (-e * (xv / (1 / c + xx)))[:, None]
    tau_left = ((tau + again) / (1 + c * xx))[:, None]
    time, e, s, cosh = time[:, None], e[:, None], s[:, None], (1 + 2 * w)[:, None]
    keep = keep[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, vs = spatial(x, tile, T), spatial(v, tile, T)
        h = keep * (spatial(g, tile, T) + time * arrive(xs, vs, split, line))
        t = across(vs, xs, split) + tau_left * xs
        write(gx, tile, cosh * h + on_t * t, 0.0)
        write(gv, tile, s * h + e * t, 0.0)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def logmap_backward_kernel(
    g, x, y, gx, gy, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """With h = gs + (g0/x0)·xs and e = (φ'(w)/φ)·(h·vs) − 2φ·(h·xs):

    gy = φ·h + e·∂w/∂ys,   gx = (g0/x0)·(vs − (v0/x0)·xs) − (1+2w)φ·h + e·∂w/∂xs
    """
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    x02, measured, x_split, y_split, scales = logarithmic_map(x, y, mine, width, c, T, D)
    w, slope = measured
    on_x, on_y, on_across = slope
    phi, shrink = scales
    time = times(g, mine, width, T) / root(x02)
    hv, hx, xv = zero(mine, T), zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        h = spatial(g, tile, T) + time[:, None] * xs
        vs = log_vector(xs, spatial(y, tile, T), scales)
        hv += tl.sum(h * vs, 1)
        hx += tl.sum(h * xs, 1)
        xv += tl.sum(xs * vs, 1)
    e = 2 * ratio(arc_along(w, phi) * hv, shrink) - 2 * phi * hx
    on_x, on_y, on_across = (e * on_x)[:, None], (e * on_y)[:, None], (e * on_across)[:, None]
    time, shift, back = time[:, None], (xv / x02)[:, None], (phi + shrink)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys = spatial(x, tile, T), spatial(y, tile, T)
        h = spatial(g, tile, T) + time * xs
        of_w = on_x * xs + on_across * across_x(xs, ys, x_split)
        write(gx, tile, time * (log_vector(xs, ys, scales) - shift * xs) - back * h + of_w, 0.0)
        of_w = on_y * ys - on_across * across_y(xs, ys, y_split)
        write(gy, tile, phi[:, None] * h + of_w, 0.0)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def transport_backward_kernel(
    g, x, y, v, gx, gy, gv, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """With h = gs + (g0/y0)·ys and e = h·(xs + ys)/(2K(1+w)):

    gv = h − e·(y0·xs/x0 − ys)
    gx = κ·h − e·(y0/x0)·(vs − (v0/x0)·xs) − e·κ·2K·∂w/∂xs
    gy = κ·h + (g0/y0)·(zs − (z0/y0)·ys) + e·(vs − (v0/y0)·ys) − e·κ·2K·∂w/∂ys
    """
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    kappa, twice, lifted, of_v, slope, x_split, y_split = parallel_transport(
        x, y, v, mine, width, c, T, D
    )
    x0, y0 = lifted
    xv, tau_v = of_v
    on_x, on_y, on_across = slope
    time = times(g, mine, width, T) / y0
    hs, yz = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys, vs = spatial(x, tile, T), spatial(y, tile, T), spatial(v, tile, T)
        hs += tl.sum((spatial(g, tile, T) + time[:, None] * ys) * (xs + ys), 1)
        yz += tl.sum(ys * transported(xs, ys, vs, kappa), 1)
    e = hs / twice
    by_w = (e * (2 / c))[:, None]
    on_x, on_y, on_across = on_x[:, None], on_y[:, None], on_across[:, None]
    z_shift, v_shift = (yz / (y0 * y0))[:, None], (xv / (x0 * y0))[:, None]
    e_x = (e * y0 / x0)[:, None]
    tau_left = (tau_v / (c * x0 * x0))[:, None]  # vs − (v0/x0)·xs = v⊥ + tau_left·xs
    time, e, on_h = time[:, None], e[:, None], kappa[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys, vs = spatial(x, tile, T), spatial(y, tile, T), spatial(v, tile, T)
        h = spatial(g, tile, T) + time * ys
        of_w = by_w * (on_x * xs + on_across * across_x(xs, ys, x_split))
        write(gv, tile, h - of_w, 0.0)
        v_left = off(vs, xs, tau_v) + tau_left * xs
        write(gx, tile, on_h * h - e_x * v_left - on_h * of_w, 0.0)
        of_w = by_w * (on_y * ys - on_across * across_y(xs, ys, y_split))
        z = transported(xs, ys, vs, kappa)
        to_y = time * (z - z_shift * ys) + e * (vs - v_shift * ys)
        write(gy, tile, on_h * h + to_y - on_h * of_w, 0.0)
