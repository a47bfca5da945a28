"""The diffusion's forward step and its statistics; formulas in hdrm/ops/noising.py.

Noise is made where it is used, one Philox call for four neighbouring columns. Sums over a table's rows
are taken in two steps: a program adds a block of rows, of a size that depends on the table's shape
alone, and a second kernel adds the blocks in double: the same bits always.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import TYPES, WIDE, arithmetic, over_rows, start, tuned_tiles
from .philox import normals
from .radial import number
from .tiles import CHUNK, chunk, my_rows, num_chunks, numbers, spatial, write

ELEMENTS, COLUMNS = 2048, 256  # of a tile of the kernels that sum over rows, and at most so wide
WARPS = 8
STEPS = 4  # tiles of a block of rows, or more
# Several for each multiprocessor; few enough blocks to be added by one program.
MOST_PROGRAMS = 1024
# The tile in which blocks are added, and registers of a thread: all, as in launch.py.
MERGED = {"BLOCKS": 256, "COLUMNS": 8, "num_warps": 4, "maxnreg": 255}


@triton.jit
def levels(mine, t, alpha_bar, steps, growth, root_c, GROWS: tl.constexpr, T: tl.constexpr):
    """a and b of these rows, as columns: ᾱ and 1 − ᾱ in double, for ᾱ may be near 1, the rest in T.

    Nothing is looked up for a step that the schedule does not have; its row becomes NaN.
    """
    step = numbers(t, mine, tl.int64)
    known = (step >= 0) & (step < steps)
    level = tl.load(alpha_bar + step, mask=known, other=float("nan"))
    a = tl.sqrt(level.to(T))
    if GROWS:
        time = number(root_c, T) * step.to(T) / steps
        e = tl.exp(-2 * time)
        a += number(growth, T) * ((1 - e) / (1 + e))
    return a[:, None], tl.sqrt((1 - level).to(T))[:, None]


@triton.jit
def directed(z, e):
    """sgn(z)·|ε|; what is neither positive nor negative passes, be it 0 or NaN."""
    size = tl.abs(e)
    return tl.where(z > 0, size, tl.where(z < 0, -size, z))


@triton.jit
def of_columns(vector, first, width, COUNT: tl.constexpr, T: tl.constexpr):
    """A number for each of the columns first … first + COUNT − 1, to be used in every row."""
    columns = first + tl.arange(0, COUNT)
    return tl.load(vector + columns, mask=columns < width, other=0).to(T)[None, :]


# The step: over tiles of rows ---------------------------------------------------------------------


@tuned_tiles
@triton.jit(do_not_specialize=["first_row"])
def noise_kernel(
    z0, mean, std, t, alpha_bar, steps, growth: "fp64", root_c: "fp64", seed, first_row: "i64", out,
    num_rows, width: tl.constexpr, GROWS: tl.constexpr, T: tl.constexpr, D: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Directional noise, or isotropic if there is no mean."""
    mine = my_rows(num_rows, D, ELEMENTS)
    key = tl.load(seed)
    a, b = levels(mine, t, alpha_bar, steps, growth, root_c, GROWS, T)
    COUNT: tl.constexpr = min(D, CHUNK)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        z = spatial(z0, tile, T)
        added = normals(key, first_row + mine[0], k * CHUNK, width, COUNT, T)
        if mean is not None:
            m = of_columns(mean, k * CHUNK, width, COUNT, T)
            s = of_columns(std, k * CHUNK, width, COUNT, T)
            added = m + s * directed(z, added)
        write(out, tile, a * z + b * added, 0.0)


@tuned_tiles
@triton.jit
def signal_kernel(
    grad, t, alpha_bar, steps, growth: "fp64", root_c: "fp64", gz0, num_rows, width: tl.constexpr,
    GROWS: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    mine = my_rows(num_rows, D, ELEMENTS)
    a, _ = levels(mine, t, alpha_bar, steps, growth, root_c, GROWS, T)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        write(gz0, tile, a * spatial(grad, tile, T), 0.0)


@tuned_tiles(elements_per_warp=WIDE)
@triton.jit
def spread_kernel(
    z0, pivot, base, slope, shift, gz0, num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """gz0 ← base + slope·((z0 − pivot) − shift); all but z0 have a number for each column."""
    mine = my_rows(num_rows, D, ELEMENTS)
    COUNT: tl.constexpr = min(D, CHUNK)
    for k in range(num_chunks(D)):
        tile = chunk(k, mine, width, D)
        value = spatial(z0, tile, T) - of_columns(pivot, k * CHUNK, width, COUNT, T)
        value -= of_columns(shift, k * CHUNK, width, COUNT, T)
        value *= of_columns(slope, k * CHUNK, width, COUNT, T)
        write(gz0, tile, value + of_columns(base, k * CHUNK, width, COUNT, T), 0.0)


# Sums over rows: a block of rows, some of the columns ---------------------------------------------


@triton.jit
def block_rows(num_rows, rows_per_block):
    """The first row of this program's block, and the one after its last."""
    first = tl.program_id(0).to(tl.int64) * rows_per_block
    return first, tl.minimum(first + rows_per_block, num_rows)


@triton.jit
def some_columns(rows, last, width, COLUMNS: tl.constexpr):
    """The tile of these rows, up to the one before ``last``, in this program's columns."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return (
        rows[:, None] * width + columns[None, :],
        (rows < last)[:, None] & (columns < width)[None, :],
        (columns == 0)[None, :],
    )


@triton.jit
def write_sums(partial, first, second, width, COLUMNS: tl.constexpr):
    """The two sums of this program's block, in rows 2·block and 2·block + 1 of ``partial``."""
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = 2 * tl.program_id(0).to(tl.int64) * width + columns
    tl.store(partial + at, first, mask=columns < width)
    tl.store(partial + at + width, second, mask=columns < width)


@triton.jit(do_not_specialize=["num_rows", "rows_per_block"])
def moments_kernel(
    z0, pivot, partial, num_rows, rows_per_block, width: tl.constexpr,
    T: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of every column (Welford), of values less the pivot, row 0.
    A column far from 0 thus keeps its digits, and one without spread has exactly none.

    Each of the tile's rows takes every ROWS-th row of the block; in the end they are merged.
    """
    first, last = block_rows(num_rows, rows_per_block)
    rows = first + tl.arange(0, ROWS)
    off = of_columns(pivot, tl.program_id(1) * COLUMNS, width, COLUMNS, T)
    mean, squares = tl.zeros([ROWS, COLUMNS], T), tl.zeros([ROWS, COLUMNS], T)
    taken = tl.zeros([1, 1], T)
    for _ in range(rows_per_block // ROWS):
        tile = some_columns(rows, last, width, COLUMNS)
        value = spatial(z0, tile, T) - off
        taken += 1
        step = tl.where(tile[1], value - mean, 0.0)
        mean += step * (1 / taken)
        squares += step * (value - mean)
        rows += ROWS
    count = (last - first - tl.arange(0, ROWS) + ROWS - 1) // ROWS
    count = tl.maximum(count, 0).to(T)[:, None]
    total = tl.sum(count * mean, 0) / (last - first).to(T)
    apart = mean - total[None, :]
    write_sums(partial, total, tl.sum(squares + count * (apart * apart), 0), width, COLUMNS)


@triton.jit(do_not_specialize=["num_rows", "rows_per_block", "first_row"])
def directional_backward_kernel(
    grad, z0, t, alpha_bar, steps, growth: "fp64", root_c: "fp64", seed, first_row: "i64", gz0, partial,
    num_rows, rows_per_block, width: tl.constexpr, GROWS: tl.constexpr, T: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """gz0, and the block's sums b·g and b·g·sgn(z0)|ε| of every column."""
    first, last = block_rows(num_rows, rows_per_block)
    rows = first + tl.arange(0, ROWS)
    key = tl.load(seed)
    gmean, gstd = tl.zeros([ROWS, COLUMNS], T), tl.zeros([ROWS, COLUMNS], T)
    for _ in range(rows_per_block // ROWS):
        tile, mine = some_columns(rows, last, width, COLUMNS), (rows, rows < last)
        g, z = spatial(grad, tile, T), spatial(z0, tile, T)
        a, b = levels(mine, t, alpha_bar, steps, growth, root_c, GROWS, T)
        e = normals(key, first_row + rows, tl.program_id(1) * COLUMNS, width, COLUMNS, T)
        of_noise = b * g
        gmean += of_noise
        gstd += of_noise * directed(z, e)
        write(gz0, tile, a * g, 0.0)
        rows += ROWS
    write_sums(partial, tl.sum(gmean, 0), tl.sum(gstd, 0), width, COLUMNS)


# Sums over blocks ---------------------------------------------------------------------------------


@triton.jit
def some_blocks(b, partial, num_blocks, width, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr):
    """The b-th tile of the blocks' two sums in this program's columns, and which blocks these are."""
    blocks = b * BLOCKS + tl.arange(0, BLOCKS)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (blocks < num_blocks)[:, None] & (columns < width)[None, :]
    at = 2 * blocks[:, None].to(tl.int64) * width + columns[None, :]
    first = tl.load(partial + at, mask=inside, other=0).to(tl.float64)
    second = tl.load(partial + at + width, mask=inside, other=0).to(tl.float64)
    return blocks, first, second


@triton.jit
def write_column(vector, value, width, COLUMNS: tl.constexpr):
    """A number for each of this program's columns, 0 for the time."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    value = tl.where(columns == 0, 0.0, value).to(vector.dtype.element_ty)
    tl.store(vector + columns, value, mask=columns < width)


@triton.jit(do_not_specialize=["num_blocks"])
def sum_blocks_kernel(
    partial,
    first,
    second,
    num_blocks,
    width: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    sum1, sum2 = tl.zeros([COLUMNS], tl.float64), tl.zeros([COLUMNS], tl.float64)
    for b in range(tl.cdiv(num_blocks, BLOCKS)):
        _, part1, part2 = some_blocks(b, partial, num_blocks, width, BLOCKS, COLUMNS)
        sum1 += tl.sum(part1, 0)
        sum2 += tl.sum(part2, 0)
    write_column(first, sum1, width, COLUMNS)
    write_column(second, sum2, width, COLUMNS)


@triton.jit(do_not_specialize=["num_blocks", "num_rows", "rows_per_block"])
def merge_blocks_kernel(
    partial, pivot, gmean, gstd, mean, std, base, slope, shift, num_blocks, num_rows,
    rows_per_block, width: tl.constexpr, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """mean and std of all rows from those of the blocks, which lack the pivot (Chan, Golub, LeVeque).
    If their gradients are given, then what spread_kernel makes z0's gradient of: ∂mean/∂z = 1/B,
    ∂std/∂z = (z − mean)/((B − 1)·std), the latter 0 where there is no spread.
    """
    off = tl.zeros([COLUMNS], tl.float64)
    for b in range(tl.cdiv(num_blocks, BLOCKS)):
        blocks, means, _ = some_blocks(b, partial, num_blocks, width, BLOCKS, COLUMNS)
        count = rows_of(blocks, num_blocks, num_rows, rows_per_block)
        off += tl.sum(count * means, 0) / num_rows
    squares = tl.zeros([COLUMNS], tl.float64)
    for b in range(tl.cdiv(num_blocks, BLOCKS)):
        blocks, means, inner = some_blocks(b, partial, num_blocks, width, BLOCKS, COLUMNS)
        count = rows_of(blocks, num_blocks, num_rows, rows_per_block)
        apart = means - off[None, :]
        squares += tl.sum(inner + count * (apart * apart), 0)
    degrees = tl.maximum(num_rows - 1, 1).to(tl.float64)
    deviation = tl.sqrt(squares / degrees)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    if gmean is None:
        first = tl.load(pivot + columns, mask=columns < width, other=0).to(tl.float64)
        write_column(mean, first + off, width, COLUMNS)
        write_column(std, deviation, width, COLUMNS)
    else:
        gm = tl.load(gmean + columns, mask=columns < width, other=0).to(tl.float64)
        gs = tl.load(gstd + columns, mask=columns < width, other=0).to(tl.float64)
        some = deviation > 0
        write_column(base, gm / num_rows, width, COLUMNS)
        write_column(
            slope,
            tl.where(some, gs / (degrees * tl.where(some, deviation, 1.0)), 0.0),
            width,
            COLUMNS,
        )
        write_column(shift, off, width, COLUMNS)


@triton.jit
def rows_of(blocks, num_blocks, num_rows, rows_per_block):
    """How many rows these blocks have, as a column of numbers."""
    first = blocks.to(tl.int64) * rows_per_block
    count = tl.minimum(first + rows_per_block, num_rows) - first
    return tl.where(blocks < num_blocks, count, 0).to(tl.float64)[:, None]


# Launchers ----------------------------------------------------------------------------------------


def _sum_rows(kernel, table: Tensor, *arguments, **meta) -> tuple[Tensor, int, int]:
    """Two sums over the rows of every column and block, as one vector, the number of blocks, and of
    the rows of one.
    """
    num_rows, width = table.shape
    columns = min(max(4, triton.next_power_of_2(width)), COLUMNS)
    rows = ELEMENTS // columns
    most_blocks = max(1, MOST_PROGRAMS // triton.cdiv(width, columns))
    steps = max(STEPS, triton.cdiv(num_rows, rows * most_blocks))
    blocks = triton.cdiv(num_rows, rows * steps)
    dtype = arithmetic(table.dtype)
    partial = torch.empty(2 * blocks * width, dtype=dtype, device=table.device)
    if blocks > 0:
        start(
            kernel, (blocks, triton.cdiv(width, columns)), *arguments, partial, num_rows, rows * steps,
            width, T=TYPES[dtype], ROWS=rows, COLUMNS=columns, num_warps=WARPS, **meta,
        )  # fmt: skip
    return partial, blocks, rows * steps


def _over_columns(kernel, width: int, *arguments) -> None:
    start(kernel, (triton.cdiv(width, MERGED["COLUMNS"]),), *arguments, width, **MERGED)


def _column(table: Tensor) -> Tensor:
    """A number for each column."""
    return torch.empty(table.shape[1], dtype=arithmetic(table.dtype), device=table.device)


def _schedule(t, alpha_bar, growth, root_c):
    """The arguments from which kernels make the levels of rows."""
    return t.contiguous(), alpha_bar.contiguous(), alpha_bar.numel(), growth, root_c


def _noise(z0, mean, std, t, alpha_bar, seed, growth, root_c, first_row):
    z0 = z0.contiguous()
    out = torch.empty_like(z0)
    over_rows(
        noise_kernel, *z0.shape, z0, mean, std, *_schedule(t, alpha_bar, growth, root_c), seed, first_row,
        out, GROWS=growth != 0, T=TYPES[arithmetic(z0.dtype)],
    )  # fmt: skip
    return out


def directional_noise(z0, mean, std, *rest):
    return _noise(z0, mean.contiguous(), std.contiguous(), *rest)


def directional_noise_backward(grad, z0, mean, std, t, alpha_bar, seed, growth, root_c, first_row):
    grad, z0 = grad.contiguous(), z0.contiguous()
    gz0, gmean, gstd = torch.empty_like(z0), _column(z0), _column(z0)
    grows = growth != 0
    partial, blocks, _ = _sum_rows(
        directional_backward_kernel, z0,
        grad, z0, *_schedule(t, alpha_bar, growth, root_c), seed, first_row, gz0,
        GROWS=grows, maxnreg=255 if grows else None,  # as many as tanh needs: see MERGED
    )  # fmt: skip
    _over_columns(sum_blocks_kernel, z0.shape[1], partial, gmean, gstd, blocks)
    return gz0, gmean, gstd


def isotropic_noise(z0, *rest):
    return _noise(z0, None, None, *rest)


def isotropic_noise_backward(grad, t, alpha_bar, growth, root_c):
    grad = grad.contiguous()
    gz0 = torch.empty_like(grad)
    over_rows(
        signal_kernel, *grad.shape, grad, *_schedule(t, alpha_bar, growth, root_c), gz0,
        GROWS=growth != 0, T=TYPES[arithmetic(grad.dtype)],
    )  # fmt: skip
    return gz0


def column_statistics(z0):
    z0 = z0.contiguous()
    if z0.shape[0] == 0:
        raise RuntimeError("hdrm::column_statistics: expected a table with rows, got none")
    mean, std = _column(z0), _column(z0)
    partial, blocks, rows = _sum_rows(moments_kernel, z0, z0, z0[0])
    _over_columns(
        merge_blocks_kernel, z0.shape[1], partial, z0[0], None, None, mean, std, None, None, None,
        blocks, z0.shape[0], rows,
    )  # fmt: skip
    return mean, std


def column_statistics_backward(gmean, gstd, z0):
    z0 = z0.contiguous()
    base, slope, shift = _column(z0), _column(z0), _column(z0)
    partial, blocks, rows = _sum_rows(moments_kernel, z0, z0, z0[0])
    _over_columns(
        merge_blocks_kernel, z0.shape[1], partial, z0[0], gmean.contiguous(), gstd.contiguous(),
        None, None, base, slope, shift, blocks, z0.shape[0], rows,
    )  # fmt: skip
    gz0 = torch.empty_like(z0)
    over_rows(
        spread_kernel, *z0.shape, z0, z0[0], base, slope, shift, gz0, T=TYPES[arithmetic(z0.dtype)]
    )
    return gz0
