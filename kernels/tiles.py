"""A program's tile: some rows of a table (n, width), a chunk of their columns at a time.

Narrow rows are packed, ``ELEMENTS`` elements to a program; a wide row has a program to itself, which
walks it in chunks of at most 1,024 columns. ``D`` is the width rounded up to a power of two; the width
itself is a constant too, so that the compiler sees where 16 bytes lie side by side. A kernel that
sums over its rows loops over the chunks and then loops again to use the sums; where one chunk holds
the row the compiler drops the loops and reads every element once.

Offsets are 64-bit. Coordinate 0 of a row is the time, of which kernels believe nothing.
"""

import triton
import triton.language as tl

CHUNK = tl.constexpr(1024)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def my_rows(num_rows, D: tl.constexpr, ELEMENTS: tl.constexpr):
    """The rows of this program, and which of them exist."""
    COUNT: tl.constexpr = ELEMENTS // min(D, CHUNK)
    rows = tl.program_id(0).to(tl.int64) * COUNT + tl.arange(0, COUNT)
    return rows, rows < num_rows


@triton.jit
def num_chunks(D: tl.constexpr):
    return (D + CHUNK - 1) // CHUNK


@triton.jit
def zero(mine, T: tl.constexpr):
    """A sum for each of these rows, before anything is added."""
    rows, _ = mine
    return tl.zeros(rows.shape, T)


@triton.jit
def chunk(k, mine, width, D: tl.constexpr):
    """Offsets of the k-th chunk of these rows, which of its elements exist, which are times."""
    rows, exist = mine
    columns = k * CHUNK + tl.arange(0, min(D, CHUNK))
    return (
        rows[:, None] * width + columns[None, :],
        exist[:, None] & (columns < width)[None, :],
        (columns == 0)[None, :],
    )


@triton.jit
def spatial(table, tile, T: tl.constexpr):
    """The tile's elements of a table as T, 0 in the place of times and outside."""
    at, inside, is_time = tile
    return tl.where(is_time, 0.0, tl.load(table + at, mask=inside, other=0).to(T))


@triton.jit
def times(table, mine, width, T: tl.constexpr):
    """The time coordinates of these rows."""
    rows, exist = mine
    return tl.load(table + rows * width, mask=exist, other=0).to(T)


@triton.jit
def stored(values, S: tl.constexpr):
    """Values as a table of type S keeps them: rounded to the nearest, ties to even. The interpreter
    would cut off what bfloat16 cannot hold.
    """
    if INTERPRETED and S == tl.bfloat16:
        bits = values.to(tl.int32, bitcast=True)
        bits = tl.where(values == values, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0)
        return bits.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return values.to(S)


@triton.jit
def write(table, tile, values, time):
    """Store a tile; ``time`` has a number for each row, or is 0."""
    at, inside, is_time = tile
    values = tl.where(is_time, time, values)
    tl.store(table + at, stored(values, table.dtype.element_ty), mask=inside)


@triton.jit
def numbers(table, mine, T: tl.constexpr):
    """A number for each of these rows."""
    rows, exist = mine
    return tl.load(table + rows, mask=exist, other=0).to(T)


@triton.jit
def write_numbers(table, mine, values):
    rows, exist = mine
    tl.store(table + rows, stored(values, table.dtype.element_ty), mask=exist)
