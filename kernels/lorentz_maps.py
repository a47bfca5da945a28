"""Maps of the hyperboloid; formulas in hdrm/ops/lorentz_maps.py.

Maps at a base point, projections and their gradients compute in float64 for float32 tables, too: a
gradient is a Jacobian times a vector, whose parts may cancel by any factor, and what is left has to
be right to a float's rounding. The range still ends where the table's does.
"""

import torch
import triton
import triton.language as tl

from .geodesic import (
    arrive,
    exponential_map,
    log_vector,
    logarithmic_map,
    parallel_transport,
    point_and_vector,
    transported,
)
from .launch import TYPES, WIDE, arithmetic, largest_radius, over_rows, tuned_tiles
from .lorentz_maps_backward import (
    EXPMAP0,
    LOGMAP0,
    PROJECT,
    egrad2rgrad_backward_kernel,
    expmap_backward_kernel,
    logmap_backward_kernel,
    project_tangent_backward_kernel,
    scaling_backward_kernel,
    transport_backward_kernel,
)
from .radial import asinhc, number, root, sinhc
from .tiles import chunk, my_rows, num_chunks, spatial, times, write, zero


@tuned_tiles
@triton.jit
def scaling_kernel(
    x, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    MAP: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """expmap0, logmap0 and project: a scale for each row and a time coordinate."""
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx = zero(mine, T)
    for k in range(num_chunks(D)):
        xs = spatial(x, chunk(k, mine, width, D), T)
        xx += tl.sum(xs * xs, 1)
    if MAP == EXPMAP0:
        scale = sinhc(xx * c, limit)
        time = root(1 / c + scale * (scale * xx))
    elif MAP == LOGMAP0:
        scale = asinhc(xx * c)
        time = zero(mine, T)
    else:
        scale = zero(mine, T) + 1
        time = root(1 / c + xx)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(out, tile, scale[:, None] * spatial(x, tile, T), time[:, None])


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def project_tangent_kernel(
    x, v, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, xv = point_and_vector(x, v, mine, width, T, D)
    time = (xv / root(1 / c + xx))[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(out, tile, spatial(v, tile, T), time)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def egrad2rgrad_kernel(
    x, g, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, xg = point_and_vector(x, g, mine, width, T, D)
    x0, g0 = root(1 / c + xx), times(g, mine, width, T)
    share = (c * (x0 * g0 + xg))[:, None]
    time = (c * (x0 * xg + g0 * xx))[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(out, tile, spatial(g, tile, T) + share * spatial(x, tile, T), time)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def expmap_kernel(
    x, v, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    _, split, _, line, _ = exponential_map(x, v, mine, width, c, limit, T, D)
    yy = zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        ys = arrive(spatial(x, tile, T), spatial(v, tile, T), split, line)
        yy += tl.sum(ys * ys, 1)
    time = root(1 / c + yy)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(out, tile, arrive(spatial(x, tile, T), spatial(v, tile, T), split, line), time)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def logmap_kernel(
    x, y, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    x02, _, _, _, scales = logarithmic_map(x, y, mine, width, c, T, D)
    xv = zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        xv += tl.sum(xs * log_vector(xs, spatial(y, tile, T), scales), 1)
    time = (xv / root(x02))[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(out, tile, log_vector(spatial(x, tile, T), spatial(y, tile, T), scales), time)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def transport_kernel(
    x, y, v, out, c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    kappa, _, lifted, _, _, _, _ = parallel_transport(x, y, v, mine, width, c, T, D)
    _, y0 = lifted
    yz = zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        ys = spatial(y, tile, T)
        yz += tl.sum(ys * transported(spatial(x, tile, T), ys, spatial(v, tile, T), kappa), 1)
    time = (yz / y0)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        z = transported(spatial(x, tile, T), spatial(y, tile, T), spatial(v, tile, T), kappa)
        write(out, tile, z, time)


def _map(kernel, c: float, *rows, T=tl.float64, **meta):
    rows = [row.contiguous() for row in rows]
    shape, dtype = rows[0].shape, arithmetic(rows[0].dtype)
    out = torch.empty(shape, dtype=dtype, device=rows[0].device)
    over_rows(
        kernel, shape[:-1].numel(), shape[-1], *rows, out, c, largest_radius(c, dtype), T=T, **meta
    )
    return out


def _gradients(kernel, c: float, grad, *rows, T=tl.float64, **meta):
    grad, *rows = (row.contiguous() for row in (grad, *rows))
    shape, dtype = grad.shape, arithmetic(rows[0].dtype)
    found = [torch.empty_like(row) for row in rows]
    over_rows(
        kernel, shape[:-1].numel(), shape[-1], grad, *rows, *found, c, largest_radius(c, dtype),
        T=T, **meta,
    )  # fmt: skip
    return tuple(found) if len(found) > 1 else found[0]


def _scaling(map_, x, c: float):
    return _map(scaling_kernel, c, x, T=TYPES[arithmetic(x.dtype)], MAP=map_)


def _scaling_backward(map_, grad, x, c: float):
    T = TYPES[arithmetic(x.dtype)]
    return _gradients(scaling_backward_kernel, c, grad, x, T=T, MAP=map_)


def expmap0(u, c):
    return _scaling(EXPMAP0, u, c)


def expmap0_backward(grad, u, c):
    return _scaling_backward(EXPMAP0, grad, u, c)


def logmap0(x, c):
    return _scaling(LOGMAP0, x, c)


def logmap0_backward(grad, x, c):
    return _scaling_backward(LOGMAP0, grad, x, c)


def project(x, c):
    return _scaling(PROJECT, x, c)


def project_backward(grad, x, c):
    return _scaling_backward(PROJECT, grad, x, c)


def project_tangent(x, v, c):
    return _map(project_tangent_kernel, c, x, v)


def project_tangent_backward(grad, x, v, c):
    return _gradients(project_tangent_backward_kernel, c, grad, x, v)


def egrad2rgrad(x, g, c):
    return _map(egrad2rgrad_kernel, c, x, g)


def egrad2rgrad_backward(grad, x, g, c):
    return _gradients(egrad2rgrad_backward_kernel, c, grad, x, g)


def expmap(x, v, c):
    return _map(expmap_kernel, c, x, v)


def expmap_backward(grad, x, v, c):
    return _gradients(expmap_backward_kernel, c, grad, x, v)


def logmap(x, y, c):
    return _map(logmap_kernel, c, x, y)


def logmap_backward(grad, x, y, c):
    return _gradients(logmap_backward_kernel, c, grad, x, y)


def transport(x, y, v, c):
    return _map(transport_kernel, c, x, y, v)


def transport_backward(grad, x, y, v, c):
    return _gradients(transport_backward_kernel, c, grad, x, y, v)
