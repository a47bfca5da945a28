"""One optimiser step on the rows of a table, in place; formulas in hdrm/ops/riemannian_step.py.

The Riemannian gradient of a row is v = gs + share·xs. Both optimisers move along
d = on_v·v + on_m·m with the new moment m = keep·(the old one) + fresh·v: a few numbers for each
row, from which d is made again wherever it is needed.
"""

import triton
import triton.language as tl

from .geodesic import arrive, finish_split, geodesic, off, point_and_vector
from .launch import TYPES, WIDE, largest_radius, over_rows, tuned_tiles
from .radial import number, ratio, root
from .tiles import (
    chunk,
    my_rows,
    num_chunks,
    numbers,
    spatial,
    times,
    write,
    write_numbers,
    zero,
)


@triton.jit
def gradient(x, g, mine, width, c, weight_decay, T: tl.constexpr, D: tl.constexpr):
    """|xs|², and the share of xs in the Riemannian gradient, weight decay included."""
    xx, xg = point_and_vector(x, g, mine, width, T, D)
    share = c * (root(1 / c + xx) * times(g, mine, width, T) + xg)
    return xx, share + 2 * weight_decay * (1 + c * xx)


@triton.jit
def motion(x, g, m, tile, share, mix, T: tl.constexpr):
    """A tile's xs, new moment (0 where there is none) and direction."""
    keep, fresh, on_v, on_m = mix
    xs = spatial(x, tile, T)
    v = spatial(g, tile, T) + share[:, None] * xs
    if m is None:
        moment = tl.zeros_like(v)
        direction = on_v * v
    else:
        moment = keep * spatial(m, tile, T) + fresh * v
        direction = on_v * v + on_m * moment
    return xs, moment, direction


@triton.jit
def move(x, g, m, mine, width, xx, share, mix, c, limit, T: tl.constexpr, D: tl.constexpr):
    """x ← expmap(x, d) and m ← transport(x, y, m).

    With y on the geodesic that leaves x with velocity d: ⟨y,m⟩ = (sinhθ/θ)·⟨d,m⟩.
    """
    xd, xm = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        xs, moment, direction = motion(x, g, m, chunk(k, mine, width, D), share, mix, T)
        xd += tl.sum(xs * direction, 1)
        xm += tl.sum(xs * moment, 1)
    tau, tau_m = ratio(xd, xx), ratio(xm, xx)
    again, rest2, crossing = zero(mine, T), zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        xs, moment, direction = motion(x, g, m, chunk(k, mine, width, D), share, mix, T)
        rest = off(direction, xs, tau)
        again += tl.sum(rest * xs, 1)
        rest2 += tl.sum(rest * rest, 1)
        crossing += tl.sum(rest * off(moment, xs, tau_m), 1)
    split, norms = finish_split(xx, tau, again, rest2, c)
    line, hyperbolic = geodesic(xx, split, norms, c, limit)
    w, s, _ = hyperbolic
    along = split[0] + split[1]
    kappa = c * 0.5 * s * (crossing + along * tau_m * (xx / (1 + c * xx))) / (1 + w)
    yy, ym = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        xs, moment, direction = motion(x, g, m, chunk(k, mine, width, D), share, mix, T)
        ys = arrive(xs, direction, split, line)
        yy += tl.sum(ys * ys, 1)
        ym += tl.sum(ys * (moment + kappa[:, None] * (xs + ys)), 1)
    y0 = root(1 / c + yy)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs, moment, direction = motion(x, g, m, tile, share, mix, T)
        ys = arrive(xs, direction, split, line)
        write(x, tile, ys, y0[:, None])
        if m is not None:
            write(m, tile, moment + kappa[:, None] * (xs + ys), (ym / y0)[:, None])


@tuned_tiles(elements_per_warp=WIDE, restore=("x", "m"))
@triton.jit
def sgd_kernel(
    x, g, m, keep: "fp64", fresh: "fp64", on_v: "fp64", on_m: "fp64", weight_decay: "fp64",
    c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """m is None without momentum."""
    c, limit = number(c, T), number(limit, T)
    mix = (number(keep, T), number(fresh, T), number(on_v, T), number(on_m, T))
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, share = gradient(x, g, mine, width, c, number(weight_decay, T), T, D)
    move(x, g, m, mine, width, xx, share, mix, c, limit, T, D)


@tuned_tiles(elements_per_warp=WIDE, restore=("x", "m", "second"))
@triton.jit
def adam_kernel(
    x, g, m, second, keep: "fp64", fresh: "fp64", keep2: "fp64", fresh2: "fp64",
    step_size: "fp64", correction2: "fp64", eps: "fp64", weight_decay: "fp64",
    c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit = number(c, T), number(limit, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx, share = gradient(x, g, mine, width, c, number(weight_decay, T), T, D)
    xv = zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        xv += tl.sum(xs * (spatial(g, tile, T) + share[:, None] * xs), 1)
    tau = ratio(xv, xx)
    again, rest2 = zero(mine, T), zero(mine, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        xs = spatial(x, tile, T)
        rest = off(spatial(g, tile, T) + share[:, None] * xs, xs, tau)
        again += tl.sum(rest * xs, 1)
        rest2 += tl.sum(rest * rest, 1)
    _, norms = finish_split(xx, tau, again, rest2, c)
    _, q = norms
    moment2 = number(keep2, T) * numbers(second, mine, T) + number(fresh2, T) * (q / c)
    scale = number(step_size, T) / (root(moment2 / number(correction2, T)) + number(eps, T))
    mix = (number(keep, T), number(fresh, T), number(0.0, T), -scale[:, None])
    move(x, g, m, mine, width, xx, share, mix, c, limit, T, D)
    write_numbers(second, mine, moment2)  # after the loads: across a store they would be repeated


def riemannian_sgd_step_(
    x, grad, momentum_buffer, lr, momentum, dampening, weight_decay, nesterov, c
):  # fmt: skip
    along_gradient = nesterov or momentum_buffer is None
    on_v, on_m = -lr if along_gradient else 0.0, -lr * momentum if nesterov else -lr
    over_rows(
        sgd_kernel, x.shape[0], x.shape[1], x, grad.contiguous(), momentum_buffer,
        momentum, 1 - dampening, on_v, on_m, weight_decay, c, largest_radius(c, x.dtype),
        T=TYPES[x.dtype],
    )  # fmt: skip


def riemannian_adam_step_(
    x, grad, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, weight_decay, correction1, correction2, c
):  # fmt: skip
    over_rows(
        adam_kernel, x.shape[0], x.shape[1], x, grad.contiguous(), exp_avg, exp_avg_sq,
        beta1, 1 - beta1, beta2, 1 - beta2, lr / correction1, correction2, eps, weight_decay,
        c, largest_radius(c, x.dtype), T=TYPES[x.dtype],
    )  # fmt: skip
