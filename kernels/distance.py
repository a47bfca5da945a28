"""Lorentz distance of two rows; formulas in hdrm/ops/distance.py, the gradient's in
csrc/rows/distance.h.
"""

import torch
import triton
import triton.language as tl

from .launch import TYPES, arithmetic, largest_radius, over_rows, tuned_tiles
from .radial import arc, asinhc, number, ratio, root, sinhc
from .tiles import chunk, my_rows, num_chunks, numbers, spatial, write, write_numbers, zero

DISTANCE, SQUARED, SQUARED_TANGENT = (tl.constexpr(kind) for kind in range(3))


@triton.jit
def rest(a, b, near, tau, of):
    """The part across ``of`` of near·a − b, after one orthogonalisation."""
    return tl.fma(-tau[:, None], of, near[:, None] * a - b)


@triton.jit
def measure(x, y, mine, width, T: tl.constexpr, D: tl.constexpr):
    """What two rows have to say to each other, but for the space they lie in.

    Returns (xx, yy, along): |xs|², |ys|², δ·(xs + ys); gap: |xs||ys| − xs·ys; and two triples
    (near, τ, again) from which :func:`across_x` and :func:`across_y` make δ⊥x and δ⊥y.
    """
    none = zero(mine, T)
    xx, yy, xy, along, by_x, by_y = none, none, none, none, none, none
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys = spatial(x, tile, T), spatial(y, tile, T)
        xx += tl.sum(xs * xs, 1)
        yy += tl.sum(ys * ys, 1)
        xy += tl.sum(xs * ys, 1)
        along += tl.sum((xs - ys) * (xs + ys), 1)
        by_x += tl.sum((xs - ys) * xs, 1)
        by_y += tl.sum((xs - ys) * ys, 1)
    delta2 = xx + yy - 2 * xy
    x_by_delta, y_by_delta = 4 * delta2 < yy, 4 * delta2 < xx
    near_x, near_y = x_by_delta.to(T), y_by_delta.to(T)
    tau_x = ratio(tl.where(x_by_delta, by_x, -xy), xx)
    tau_y = ratio(tl.where(y_by_delta, by_y, xy), yy)
    again_x, again_y, across2 = none, none, none
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys = spatial(x, tile, T), spatial(y, tile, T)
        rest_x = rest(xs, ys, near_x, tau_x, xs)
        rest_y = -rest(ys, xs, near_y, -tau_y, ys)
        again_x += tl.sum(rest_x * xs, 1)
        again_y += tl.sum(rest_y * ys, 1)
        longer = tl.where((xx >= yy)[:, None], rest_x, rest_y)
        across2 += tl.sum(longer * longer, 1)
    a, b = root(xx), root(yy)
    longer, other = tl.where(xx >= yy, a, b), tl.where(xx >= yy, b, a)
    again = ratio(tl.where(xx >= yy, again_x, again_y), longer)  # its square would overflow far out
    size = root(tl.maximum(across2 - again * again, 0.0))
    acute = longer * (size * ratio(size, other + ratio(xy, longer)))
    gap = tl.where(xy > 0, acute, a * b - xy)
    x_split = (near_x, tau_x, ratio(again_x, xx))
    y_split = (near_y, tau_y, ratio(again_y, yy))
    return (xx, yy, along), gap, x_split, y_split


@triton.jit
def across_x(xs, ys, split):
    """δ⊥x, the part of δ orthogonal to xs."""
    near, tau, again = split
    return rest(xs, ys, near, tau, xs) - again[:, None] * xs


@triton.jit
def across_y(xs, ys, split):
    near, tau, again = split
    return -rest(ys, xs, near, -tau, ys) - again[:, None] * ys


@triton.jit
def between_points(sums, gap, c):
    """w = sinh²(d/2r) and its gradient: ∂w/∂x = on_x·xs + across·δ⊥x, ∂w/∂y = on_y·ys − across·δ⊥y.

    Returns w, (on_x, on_y, across).
    """
    xx, yy, along = sums
    a, b, x0, y0 = root(xx), root(yy), root(1 / c + xx), root(1 / c + yy)
    rho = ratio(along, a * y0 + b * x0)
    w = rho * (rho / (2 * (1 + root(1 + rho * rho)))) + gap * (c * 0.5)
    across = c * 0.5
    on_x = across * ratio(rho / (c * x0) + ratio(gap, a), a)
    on_y = across * ratio(-rho / (c * y0) + ratio(gap, b), b)
    return w, (on_x, on_y, across + 0 * w)


@triton.jit
def between_tangents(sums, gap, c, limit):
    """The same for the exponential maps of tangent vectors at the origin."""
    uu, vv, along = sums
    root_c = root(c)
    a, b = root(uu), root(vv)
    radial = ratio(along, a + b)
    half = radial * radial * (c * 0.25)
    su, sv, shalf = sinhc(uu * c, limit), sinhc(vv * c, limit), sinhc(half, limit)
    w = half * shalf * shalf + su * (gap * (c * 0.5)) * sv
    # sinhΔ = 2·sinh(Δ/2)·cosh(Δ/2), coshρ = √(1 + sinh²ρ)
    sinh_delta = radial * root_c * shalf * root(1 + half * shalf * shalf)
    cosh_u, cosh_v = root(1 + uu * c * su * su), root(1 + vv * c * sv * sv)
    on_u = root_c * 0.5 * ratio(sinh_delta + cosh_u * (root_c * sv * ratio(gap, a)), a)
    on_v = root_c * 0.5 * ratio(-sinh_delta + cosh_v * (root_c * su * ratio(gap, b)), b)
    return w, (on_u, on_v, c * 0.5 * su * sv)


@triton.jit
def between(sums, gap, c, limit, KIND: tl.constexpr):
    if KIND == SQUARED_TANGENT:
        return between_tangents(sums, gap, c, limit)
    else:
        return between_points(sums, gap, c)


@triton.jit
def squared(w, c):
    length = asinhc(w)
    return 4 / c * w * length * length


@tuned_tiles
@triton.jit
def distance_kernel(
    x, y, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    sums, gap, _, _ = measure(x, y, mine, width, T, D)
    w, _ = between(sums, gap, c, limit, KIND)
    value = 2 * root(w / c) * asinhc(w) if KIND == DISTANCE else squared(w, c)
    write_numbers(out, mine, value)


@tuned_tiles
@triton.jit
def distance_backward_kernel(
    grad, x, y, gx, gy, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    KIND: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    sums, gap, x_split, y_split = measure(x, y, mine, width, T, D)
    w, slope = between(sums, gap, c, limit, KIND)
    on_x, on_y, across = slope
    if KIND == DISTANCE:  # dd/dw = r/(√w·√(1+w)), taken as 0 at w = 0
        scale = numbers(grad, mine, T) * ratio(1 / root(c) + 0 * w, root(w) * root(1 + w))
    else:
        scale = numbers(grad, mine, T) * (4 / c * arc(w))
    on_x, on_y, across = (scale * on_x)[:, None], (scale * on_y)[:, None], (scale * across)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, ys = spatial(x, tile, T), spatial(y, tile, T)
        write(gx, tile, on_x * xs + across * across_x(xs, ys, x_split), 0.0)
        write(gy, tile, on_y * ys - across * across_y(xs, ys, y_split), 0.0)


def _forward(kind: tl.constexpr, x, y, c: float):
    x, y = x.contiguous(), y.contiguous()
    dtype = arithmetic(x.dtype)
    out = torch.empty(x.shape[:-1], dtype=dtype, device=x.device)
    over_rows(
        distance_kernel, out.numel(), x.shape[-1], x, y, out, c, largest_radius(c, dtype),
        KIND=kind, T=TYPES[dtype],
    )  # fmt: skip
    return out


def _backward(kind: tl.constexpr, grad, x, y, c: float):
    grad, x, y = grad.contiguous(), x.contiguous(), y.contiguous()
    dtype = arithmetic(x.dtype)
    gx, gy = torch.empty_like(x), torch.empty_like(y)
    over_rows(
        distance_backward_kernel, grad.numel(), x.shape[-1],
        grad, x, y, gx, gy, c, largest_radius(c, dtype), KIND=kind, T=TYPES[dtype],
    )  # fmt: skip
    return gx, gy


def distance(x, y, c):
    return _forward(DISTANCE, x, y, c)


def distance_backward(grad, x, y, c):
    return _backward(DISTANCE, grad, x, y, c)


def sqdist(x, y, c):
    return _forward(SQUARED, x, y, c)


def sqdist_backward(grad, x, y, c):
    return _backward(SQUARED, grad, x, y, c)


def sqdist0(u, v, c):
    return _forward(SQUARED_TANGENT, u, v, c)


def sqdist0_backward(grad, u, v, c):
    return _backward(SQUARED_TANGENT, grad, u, v, c)
