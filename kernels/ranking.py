"""The hinge and negative samples, formulas in hdrm/ops/ranking.py; topk is in nearest.py."""

import torch
import triton
import triton.language as tl

from .distance import across_x, across_y, between_tangents, measure, squared
from .launch import TYPES, WIDE, arithmetic, largest_radius, over_rows, start, tuned_tiles
from .nearest import topk  # noqa: F401
from .radial import arc, number
from .tiles import chunk, my_rows, num_chunks, numbers, spatial, write, write_numbers

DRAWS = 256  # of a program of sample_negatives


@triton.jit
def hinge_of(w_pos, w_neg, c, margin):
    excess = squared(w_pos, c) - squared(w_neg, c) + margin
    return tl.where(excess <= 0, 0.0, excess)  # NaN stays NaN


@tuned_tiles
@triton.jit
def margin_ranking_kernel(
    u, pos, neg, out, margin: "fp64", c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit, margin = number(c, T), number(limit, T), number(margin, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    sums, gap, _, _ = measure(u, pos, mine, width, T, D)
    w_pos, _ = between_tangents(sums, gap, c, limit)
    sums, gap, _, _ = measure(u, neg, mine, width, T, D)
    w_neg, _ = between_tangents(sums, gap, c, limit)
    write_numbers(out, mine, hinge_of(w_pos, w_neg, c, margin))


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def margin_ranking_backward_kernel(
    grad, u, pos, neg, gu, gpos, gneg, margin: "fp64", c: "fp64", limit: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    c, limit, margin = number(c, T), number(limit, T), number(margin, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    sums, gap, u_from_pos, pos_from_u = measure(u, pos, mine, width, T, D)
    w_pos, pos_slope = between_tangents(sums, gap, c, limit)
    sums, gap, u_from_neg, neg_from_u = measure(u, neg, mine, width, T, D)
    w_neg, neg_slope = between_tangents(sums, gap, c, limit)
    quiet = hinge_of(w_pos, w_neg, c, margin) == 0
    active = tl.where(quiet, 0.0, 4 / c * numbers(grad, mine, T))
    of_pos, of_neg = active * arc(w_pos), -active * arc(w_neg)
    u_by_pos, on_pos, across_pos = pos_slope
    u_by_neg, on_neg, across_neg = neg_slope
    on_u = (of_pos * u_by_pos + of_neg * u_by_neg)[:, None]
    on_pos, across_pos = (of_pos * on_pos)[:, None], (of_pos * across_pos)[:, None]
    on_neg, across_neg = (of_neg * on_neg)[:, None], (of_neg * across_neg)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        us, ps, ns = spatial(u, tile, T), spatial(pos, tile, T), spatial(neg, tile, T)
        across_u = across_pos * across_x(us, ps, u_from_pos)
        across_u += across_neg * across_x(us, ns, u_from_neg)
        write(gu, tile, on_u * us + across_u, 0.0)
        write(gpos, tile, on_pos * ps - across_pos * across_y(us, ps, pos_from_u), 0.0)
        write(gneg, tile, on_neg * ns - across_neg * across_y(us, ns, neg_from_u), 0.0)


@triton.jit
def sample_kernel(
    users, rowptr, col, offset, num_items, num_users, num, seed, out, draws, BLOCK: tl.constexpr
):
    """Draw i is the r-th unseen item of its user, r = ⌊x·unseen/2⁶⁴⌋ with the Philox number of i."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exist = i < draws
    user = tl.load(users + i // num, mask=exist, other=0)
    exist &= (user >= 0) & (user < num_users)
    begin = tl.load(rowptr + user, mask=exist, other=0)
    count = tl.load(rowptr + user + 1, mask=exist, other=0) - begin
    unseen = num_items - count
    exist &= unseen > 0
    x0, x1, _, _ = tl.randint4x(tl.load(seed), i)
    bound = unseen.to(tl.uint64)
    high, low = x0.to(tl.uint32, bitcast=True).to(tl.uint64), x1.to(tl.uint32, bitcast=True)
    rank = ((high * bound + ((low.to(tl.uint64) * bound) >> 32)) >> 32).to(tl.int64)
    # The item is rank + j, where j counts the seen items s_j with s_j − j ≤ rank: binary search.
    below, above = tl.zeros([BLOCK], tl.int64), count
    for _ in range(32):
        middle = (below + above) // 2
        searching = exist & (below < above)
        seen = tl.load(col + begin + middle, mask=searching, other=0).to(tl.int64) - offset
        before = searching & (seen - middle <= rank)
        below = tl.where(before, middle + 1, below)
        above = tl.where(searching & ~before, middle, above)
    tl.store(out + i, tl.where(exist, rank + below, -1), mask=i < draws)


def margin_ranking(u, pos, neg, margin, c):
    u, pos, neg = u.contiguous(), pos.contiguous(), neg.contiguous()
    dtype = arithmetic(u.dtype)
    out = u.new_empty(u.shape[:-1], dtype=dtype)
    over_rows(
        margin_ranking_kernel, out.numel(), u.shape[-1],
        u, pos, neg, out, margin, c, largest_radius(c, dtype), T=TYPES[dtype],
    )  # fmt: skip
    return out


def margin_ranking_backward(grad, u, pos, neg, margin, c):
    grad, u, pos, neg = (x.contiguous() for x in (grad, u, pos, neg))
    dtype = arithmetic(u.dtype)
    gradients = tuple(torch.empty_like(x) for x in (u, pos, neg))
    over_rows(
        margin_ranking_backward_kernel, grad.numel(), u.shape[-1],
        grad, u, pos, neg, *gradients, margin, c, largest_radius(c, dtype), T=TYPES[dtype],
    )  # fmt: skip
    return gradients


def sample_negatives(users, rowptr, col, offset, num_items, num, seed):
    """What cannot be drawn is −1: raising would wait for the device."""
    users = users.contiguous()
    out = users.new_empty(users.shape[0], num)
    if out.numel():
        start(
            sample_kernel, (triton.cdiv(out.numel(), DRAWS),),
            users, rowptr, col, offset, num_items, rowptr.numel() - 1, num, seed, out, out.numel(),
            BLOCK=DRAWS,
        )  # fmt: skip
    return out
