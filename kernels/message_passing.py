"""Rounds of neighbourhood averaging; formulas in hdrm/ops/message_passing.py, what a round makes of
a row's sum in csrc/rows/message_passing.h.

A row of the result belongs to one slot of one program. Light rows, of fewer than SEGMENT edges, are
packed SLOTS to a program, each slot walking the edges of its own. Heavy rows are cut in pieces of a
half to two SEGMENTs: a program sums each into a row of ``partial``, its slots side by side, and a
second kernel adds the pieces in order. A row with the edges begin … end − 1 has one piece for each
multiple of SEGMENT in (begin, end], so that there are nnz // SEGMENT pieces at most, whatever the
graph looks like: a number known without waiting for the device.

The order in which neighbours are added depends on the width alone, so these kernels are not tuned
by timing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import TYPES, arithmetic, over_rows, start, tuned_tiles
from .radial import asinhc, asinhc_along, number, ratio, root
from .tiles import CHUNK, chunk, my_rows, num_chunks, numbers, spatial, write, write_numbers, zero

# Of a warp: rows side by side, and bytes of a table, two vectors of 16 bytes a thread. The
# interpreter is faster with large tiles.
MOST_SLOTS, MOST_BYTES = (32, 8192) if triton.knobs.runtime.interpret else (4, 1024)
HEAVY_WARPS = 4  # of a program that adds the pieces of a heavy row
# More than is needed. Without a limit the assembler spills a register where that lets one more
# block fit.
REGISTERS = 128
AHEAD = tl.constexpr(4)  # neighbours that a slot asks for at a time
SMALLEST_SEGMENT = 256
OWNERS_PER_PROGRAM = 128


@triton.jit
def edges_of(rowptr, rows, exist):
    begin = tl.load(rowptr + rows, mask=exist, other=0)
    return begin, tl.load(rowptr + rows + 1, mask=exist, other=0)


@triton.jit
def scales(degree, SYMMETRIC: tl.constexpr, TRANSPOSED: tl.constexpr, T: tl.constexpr):
    """Â = S·(A + λI)·T of nodes of these degrees: S and T."""
    inverse = 1 / (degree + 1).to(T)
    if SYMMETRIC:
        scale = tl.where(degree > 0, 1 / root(tl.maximum(degree, 1).to(T)), 0.0)
        return scale, scale
    elif TRANSPOSED:
        return tl.full(degree.shape, 1, T), inverse
    else:
        return inverse, tl.full(degree.shape, 1, T)


@tuned_tiles
@triton.jit
def factors_kernel(
    points, rowptr, factor, weight, c: "fp64", num_rows, width: tl.constexpr,
    SYMMETRIC: tl.constexpr, TRANSPOSED: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """weight ← logmap0's scale of each point; factor ← T times that, or T where there are none."""
    mine = my_rows(num_rows, D, ELEMENTS)
    begin, end = edges_of(rowptr, mine[0], mine[1])
    _, value = scales(end - begin, SYMMETRIC, TRANSPOSED, T)
    if points is not None:
        xx = zero(mine, T)
        for k in range(num_chunks(D)):
            xs = spatial(points, chunk(k, mine, width, D), T)
            xx += tl.sum(xs * xs, 1)
        scale = asinhc(xx * number(c, T))
        value *= scale
        if weight is not None:
            write_numbers(weight, mine, scale)
    write_numbers(factor, mine, value)


@tuned_tiles
@triton.jit
def first_kernel(
    source, factor, table, num_rows, width: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """table ← factor·source, which the first round gathers. No factor: they are 1."""
    mine = my_rows(num_rows, D, ELEMENTS)
    f = 1.0 if factor is None else numbers(factor, mine, T)[:, None]
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(table, tile, f * spatial(source, tile, T), 0.0)


@triton.jit(do_not_specialize=["num_rows", "num_pieces", "num_halvings"])
def owners_kernel(
    rowptr, owner, num_rows, num_pieces, num_halvings,
    SEGMENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """owner[p] ← the row that has (p + 1)·SEGMENT in (begin, end], or −1 if it is light."""
    piece = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    edge = (piece + 1) * SEGMENT - 1
    row = tl.zeros([BLOCK], tl.int64)
    after = row + num_rows
    for _ in range(num_halvings):  # the row is in row … after − 1
        middle = (row + after) // 2
        here = tl.load(rowptr + middle) <= edge
        row = tl.where(here, middle, row)
        after = tl.where(here, after, middle)
    begin, end = edges_of(rowptr, row, edge >= 0)
    heavy = (begin <= edge) & (edge < end) & (end - begin >= SEGMENT)
    tl.store(owner + piece, tl.where(heavy, row, -1), mask=piece < num_pieces)


@triton.jit
def gather(terms, k, width, STEP: tl.constexpr, T: tl.constexpr, D: tl.constexpr):
    """Chunk k of each slot's Σ factor[j]·table[j] over ``count`` entries j of col, from ``first``
    on in steps of STEP. No factor: they are 1. No col: j are those places themselves.
    """
    table, factor, col, first, count = terms
    count = count.to(tl.int32)
    columns = k * CHUNK + tl.arange(0, min(D, CHUNK))
    sums = tl.zeros([first.shape[0], min(D, CHUNK)], T)
    for done in range(0, tl.max(count, 0), AHEAD):
        places = ()
        for ahead in tl.static_range(AHEAD):  # all of these loads are under way before one is used
            here = done + ahead < count
            j = first + (done + ahead) * STEP
            if col is not None:
                j = tl.load(col + j, mask=here, other=0).to(tl.int64)
            places += ((j, here),)
        for ahead in tl.static_range(AHEAD):
            j, here = places[ahead]
            at = j[:, None] * width + columns[None, :]
            inside = here[:, None] & (columns < width)[None, :]
            row = tl.load(table + at, mask=inside, other=0).to(T)
            if factor is not None:
                row *= tl.load(factor + j, mask=here, other=0)[:, None]
            sums += row
    return sums


@triton.jit
def settle(
    terms, mine, degree, source, factor, weight, table, x, out, c, share, width,
    STEP: tl.constexpr, SYMMETRIC: tl.constexpr, TRANSPOSED: tl.constexpr, MEAN: tl.constexpr,
    LAST: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Rows of ``out`` from their sums over ``terms``, of which STEP slots hold a part each.

    With s = factor/T·source, what every round adds: out ← T·(S·sum + s), which the next round
    gathers. The last: out ← (S·sum + s)·share for the mean and S·sum else, from there through
    logmap0's gradient at x if there is one.
    """
    c, share = number(c, T), number(share, T)
    after, before = scales(degree, SYMMETRIC, TRANSPOSED, T)
    f = 1.0 if factor is None else numbers(factor, mine, T)[:, None]
    w = 1.0 if weight is None else numbers(weight, mine, T)[:, None]
    xx, xt = zero(mine, T), zero(mine, T)
    t = tl.zeros([mine[0].shape[0], min(D, CHUNK)], T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        sums = gather(terms, k, width, STEP, T, D)
        if STEP > 1:
            sums = tl.sum(sums, 0, keep_dims=True)
        own = spatial(source, tile, T)
        if not SYMMETRIC:  # λ = 1: the node itself
            sums += f * own if table is None else spatial(table, tile, T)
        t = after[:, None] * sums
        if not LAST:
            t = before[:, None] * t + f * own
        elif MEAN:
            t = (t + w * own) * share
        if x is not None:
            t = tl.where(tile[2], 0.0, t)
            xs = spatial(x, tile, T)
            xx += tl.sum(xs * xs, 1)
            xt += tl.sum(xs * t, 1)
        if x is None or D > CHUNK:
            write(out, tile, t, 0.0)
    if x is not None:
        if D > CHUNK:  # a wide row's t waits in its place
            tl.debug_barrier()
        on_t = asinhc(c * xx)
        on_x = asinhc_along(c * xx, on_t) * ratio(xt, xx)
        for k in range(num_chunks(D)):
            tile = chunk(k, mine, width, D)
            if D > CHUNK:
                t = spatial(out, tile, T)
            write(out, tile, on_t[:, None] * t + on_x[:, None] * spatial(x, tile, T), 0.0)


@triton.jit
def pieces_of(begin, end, SEGMENT: tl.constexpr):
    """The first piece of a row and how many it has."""
    first = begin // SEGMENT
    return first, end // SEGMENT - first


@triton.jit(do_not_specialize=["num_pieces", "num_rows"])
def round_kernel(
    source, factor, weight, table, rowptr, col, owner, partial, x, out, c: "fp64", share: "fp64",
    num_pieces, num_rows, width: tl.constexpr,
    SYMMETRIC: tl.constexpr, TRANSPOSED: tl.constexpr, MEAN: tl.constexpr, LAST: tl.constexpr,
    SEGMENT: tl.constexpr, SLOTS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Sums pieces of heavy rows, then settles light rows."""
    program, slot = tl.program_id(0), tl.arange(0, SLOTS)
    if program < num_pieces:
        row = tl.load(owner + program)
        if row >= 0:
            begin, end = edges_of(rowptr, row, True)
            piece, count = pieces_of(begin, end, SEGMENT)
            length = tl.cdiv(end - begin, count)
            first = begin + (program - piece) * length
            length = tl.minimum(length, end - first)
            count = (length - slot + SLOTS - 1) // SLOTS
            if table is None:
                terms = (source, factor, col, first + slot, count)
            else:
                terms = (table, None, col, first + slot, count)
            for k in range(num_chunks(D)):
                sums = tl.sum(gather(terms, k, width, SLOTS, T, D), 0)
                columns = k * CHUNK + tl.arange(0, min(D, CHUNK))
                at = program.to(tl.int64) * width + columns
                tl.store(partial + at, sums, mask=columns < width)
    else:
        rows = (program - num_pieces).to(tl.int64) * SLOTS + slot
        begin, end = edges_of(rowptr, rows, rows < num_rows)
        light = end - begin < SEGMENT
        count = tl.where(light, end - begin, 0)
        if table is None:
            terms = (source, factor, col, begin, count)
        else:
            terms = (table, None, col, begin, count)
        settle(
            terms, (rows, (rows < num_rows) & light), end - begin, source, factor, weight, table,
            x, out, c, share, width, 1, SYMMETRIC, TRANSPOSED, MEAN, LAST, T, D,
        )  # fmt: skip


@triton.jit
def heavy_kernel(
    source, factor, weight, table, rowptr, owner, partial, x, out, c: "fp64", share: "fp64", width: tl.constexpr,
    SYMMETRIC: tl.constexpr, TRANSPOSED: tl.constexpr, MEAN: tl.constexpr, LAST: tl.constexpr,
    SEGMENT: tl.constexpr, SLOTS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Settles heavy rows, each in the program of its first piece."""
    program, slot = tl.program_id(0), tl.arange(0, SLOTS)
    row = tl.load(owner + program)
    before = tl.load(owner + program - 1, mask=program > 0, other=-1)
    if (row >= 0) & (row != before):
        begin, end = edges_of(rowptr, row, True)
        piece, count = pieces_of(begin, end, SEGMENT)
        terms = (partial, None, None, piece + slot, (count - slot + SLOTS - 1) // SLOTS)
        one = tl.zeros([1], tl.int64)
        settle(
            terms, (one + row, one == 0), one + (end - begin), source, factor, weight, table, x,
            out, c, share, width, SLOTS, SYMMETRIC, TRANSPOSED, MEAN, LAST, T, D,
        )  # fmt: skip


def _rounds(
    source: Tensor, points: Tensor | None, x: Tensor | None, rowptr: Tensor, col: Tensor,
    num_layers: int, c: float, transposed: bool, symmetric: bool, mean: bool, narrow: bool,
) -> Tensor:  # fmt: skip
    """(Σ Â^l·s over l = 1 … L, and s itself for the mean)·share by Horner's rule.

    s is ``source``, or logmap0 of it if it holds ``points``; x: where logmap0's gradient is taken.
    """
    (num_rows, width), dtype = source.shape, arithmetic(source.dtype)
    out = torch.empty_like(source)
    if num_rows == 0:
        return out

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=source.device)

    # Not shorter than the mean degree, so that the pieces need no more than one table.
    segment = max(SMALLEST_SEGMENT, triton.next_power_of_2(triton.cdiv(col.numel(), num_rows)))
    num_pieces = col.numel() // segment
    owner = torch.empty(num_pieces, dtype=torch.int64, device=source.device)
    partial = scratch(num_pieces, width)
    if num_pieces > 0:
        start(
            owners_kernel, (triton.cdiv(num_pieces, OWNERS_PER_PROGRAM),),
            rowptr, owner, num_rows, num_pieces, num_rows.bit_length(),
            SEGMENT=segment, BLOCK=OWNERS_PER_PROGRAM,
        )  # fmt: skip
    kind = {"SYMMETRIC": symmetric, "TRANSPOSED": transposed, "T": TYPES[dtype]}
    weight = scratch(num_rows) if points is not None and mean else None
    factor = None
    if symmetric or transposed or points is not None:
        factor = scratch(num_rows)
        over_rows(factors_kernel, num_rows, width, points, rowptr, factor, weight, c, **kind)

    columns = triton.next_power_of_2(width)
    chunk = min(columns, CHUNK.value)
    per_warp = min(MOST_BYTES // dtype.itemsize, MOST_SLOTS * chunk)
    warps = max(1, chunk // per_warp)
    slots = warps * per_warp // chunk
    heavy_warps = max(HEAVY_WARPS, warps)
    kind |= {"MEAN": mean, "SEGMENT": segment, "D": columns, "maxnreg": REGISTERS}
    # Round l gathers work[l % 2] and fills the other; the last fills out, whose memory may serve as
    # a table before if it holds one. The first gathers the source itself, unless tables are narrow.
    work = [out, out]
    if narrow:
        work[num_layers % 2] = torch.empty_like(source, dtype=torch.bfloat16)
        bits = out.flatten().view(torch.bfloat16)
        work[1 - num_layers % 2] = bits[: out.numel()].view_as(out)
        over_rows(first_kernel, num_rows, width, source, factor, work[1], T=TYPES[dtype])
    elif num_layers > 1:
        work[num_layers % 2] = scratch(num_rows, width)
        if num_layers > 2 and out.dtype != dtype:
            work[1 - num_layers % 2] = scratch(num_rows, width)
    for layer in range(1, num_layers + 1):
        last = layer == num_layers
        table = None if layer == 1 and not narrow else work[layer % 2]
        rows = (source, factor, weight if last else None, table, rowptr)
        results = (owner, partial, x if last else None, out if last else work[(layer + 1) % 2])
        numbers = (c, 1 / (num_layers + 1))
        start(
            round_kernel, (num_pieces + triton.cdiv(num_rows, slots),),
            *rows, col, *results, *numbers, num_pieces, num_rows, width,
            LAST=last, SLOTS=slots, num_warps=warps, **kind,
        )  # fmt: skip
        if num_pieces > 0:
            start(
                heavy_kernel, (num_pieces,), *rows, *results, *numbers, width,
                LAST=last, SLOTS=heavy_warps * per_warp // chunk, num_warps=heavy_warps, **kind,
            )  # fmt: skip
    return out


def propagate(x, rowptr, col, num_layers, c, lorentz, symmetric, mean, narrow):
    x, rowptr, col = x.contiguous(), rowptr.contiguous(), col.contiguous()
    points = x if lorentz else None
    return _rounds(x, points, None, rowptr, col, num_layers, c, False, symmetric, mean, narrow)


def propagate_backward(grad, x, rowptr, col, num_layers, c, lorentz, symmetric, mean, narrow):
    grad, rowptr, col = grad.contiguous(), rowptr.contiguous(), col.contiguous()
    x = x.contiguous() if lorentz else None
    return _rounds(grad, None, x, rowptr, col, num_layers, c, True, symmetric, mean, narrow)
