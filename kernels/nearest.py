"""topk: the k nearest items of every user, exact, in memory that does not grow with users × items.

Distance grows with s = x0·y0 − K − xs·ys. With the heights p = x0 − r and q = y0 − r it is

    s = m − xs·ys,    m = r·p + x0·q ≥ |xs||ys|,

a matrix product that is off by no more than error·m, also near the origin, where s itself is small.

1. Items fall into groups, many more than k. The k-th smallest of the groups' least upper ends
   (1 + error)·m − xs·ys is a bound of the k-th nearest; few of the k nearest share a group, so that
   it is close to their largest.
2. The same product again. An item whose lower end (1 − error)·m − xs·ys is within the bound is
   listed: k and a few for each user.
3. What is listed gets its distance, and is sorted by distance and id.
4. For a user whose list overflows, since many items are as good as equally far, all distances are
   looked through k times, each time for the nearest behind the last: slow, and right.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .distance import between_points, measure
from .launch import TYPES, over_rows, start, tuned_tiles
from .radial import asinhc, number, root
from .tiles import CHUNK, chunk, my_rows, num_chunks, spatial, write_numbers, zero

# Of a tile of the product: users; items, in bytes of a number for each; columns multiplied at a time.
USERS, ITEM_BYTES, SLICE, WARPS = 64, 256, 16, 8
# Of a thread: all that there are. Left to itself the assembler spills some to let more blocks fit.
REGISTERS = 255
PROGRAMS = 1024  # several for each multiprocessor
GROUPS = 8  # for each of the k nearest, or more
ENTRIES = 1 << 23  # of the lists and groups of the users that are ranked at a time
SCANNED = 8192  # bytes of a tile of items that is looked through


@tuned_tiles
@triton.jit
def height_kernel(
    points, height, c: "fp64", num_rows, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """x0 − r of each point, as a ratio of what is not negative."""
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    xx = zero(mine, T)
    for k in range(num_chunks(D)):
        xs = spatial(points, chunk(k, mine, width, D), T)
        xx += tl.sum(xs * xs, 1)
    write_numbers(height, mine, xx / (root(1 / c + xx) + root(1 / c)))


# Seen items: a row of the CSR is walked along with the items ---------------------------------------


@triton.jit
def seen_at(col, offset, at, end):
    """The seen item at this place of each user's row; beyond all items where the row has ended."""
    item = tl.load(col + at, mask=at < end, other=0).to(tl.int64) - offset
    return tl.where(at < end, item, 1 << 62)


@triton.jit
def seen_from(rowptr, col, offset, user, exist, first):
    """The place of each user's first seen item that is not below ``first``, and the row's end."""
    begin = tl.load(rowptr + user, mask=exist, other=0)
    end = tl.load(rowptr + user + 1, mask=exist, other=0)
    at, after = begin, end
    length = tl.max(end - begin, 0)
    while length > 0:
        middle = (at + after) // 2
        below = seen_at(col, offset, middle, after) < first
        after = tl.where(below, after, tl.maximum(middle, at))
        at = tl.where(below, middle + 1, at)
        length = length // 2
    return at, end


@triton.jit
def unseen(allowed, item, last, col, offset, at, end, seen):
    """``allowed`` without the seen items among these, which end before ``last``; the next place."""
    while tl.min(seen, 0) < last:
        here = seen < last
        allowed = allowed & (item[None, :] != seen[:, None])
        at += here.to(tl.int64)
        seen = seen_at(col, offset, at, end)
    return allowed, at, seen


# Products of a tile of users and items -------------------------------------------------------------


@triton.jit
def slice_of(table, rows, exist, k, width, SLICE: tl.constexpr):
    """The k-th slice of these rows, 0 in the place of times and outside."""
    columns = k * SLICE + tl.arange(0, SLICE)
    at = rows[:, None] * width + columns[None, :]
    inside = exist[:, None] & (columns < width)[None, :]
    return tl.where((columns == 0)[None, :], 0.0, tl.load(table + at, mask=inside, other=0))


@triton.jit(
    do_not_specialize=["offset", "num_users", "num_items", "num_tiles", "capacity"],
)
def products_kernel(
    users, items, user_heights, item_heights, rowptr, col, least, bounds, listed, counts,
    c: "fp64", error: "fp64", offset, num_users, num_items, num_tiles, capacity, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, SLICE: tl.constexpr, USERS: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """A block of users and a range of ``num_tiles`` tiles of items. Without bounds: the least upper
    end of each of the range's ITEMS groups. With them: lists the items within, and counts them.
    """
    user = tl.program_id(0).to(tl.int64) * USERS + tl.arange(0, USERS)
    exist = user < num_users
    part, parts = tl.program_id(1), tl.num_programs(1)
    first = part.to(tl.int64) * num_tiles * ITEMS
    r, error = 1 / root(number(c, T)), number(error, T)
    p = tl.load(user_heights + user, mask=exist, other=0)[:, None]
    if rowptr is not None:
        at, end = seen_from(rowptr, col, offset, user, exist, first)
        seen = seen_at(col, offset, at, end)
    if bounds is not None:
        bound = tl.load(bounds + user, mask=exist, other=0)[:, None]
        count = tl.zeros([USERS], tl.int32)
        listed += (tl.program_id(0).to(tl.int64) * USERS * parts + part) * capacity
    else:
        best = tl.full([USERS, ITEMS], float("inf"), T)
    for tile in range(num_tiles):
        item = first + tile * ITEMS + tl.arange(0, ITEMS)
        real = item < num_items
        dots = tl.zeros([USERS, ITEMS], T)
        for k in range((D + SLICE - 1) // SLICE):
            xs = slice_of(users, user, exist, k, width, SLICE)
            ys = slice_of(items, item, real, k, width, SLICE)
            dots = tl.dot(xs, tl.trans(ys), dots, input_precision="ieee", out_dtype=T)
        m = r * p + (r + p) * tl.load(item_heights + item, mask=real, other=0)[None, :]
        allowed = exist[:, None] & real[None, :]
        if rowptr is not None:
            last = first + (tile + 1) * ITEMS
            allowed, at, seen = unseen(allowed, item, last, col, offset, at, end, seen)
        if bounds is not None:
            near = allowed & ((1 - error) * m - dots <= bound)
            left = tl.where(near, tl.arange(0, ITEMS)[None, :], ITEMS)
            following = tl.min(left, 1)
            while tl.min(following, 0) < ITEMS:  # of each user the next; most tiles have none
                here = following < ITEMS
                place = (tl.arange(0, USERS) * (parts * capacity) + count).to(tl.int64)
                value = first + tile * ITEMS + following
                tl.store(listed + place, value, mask=here & (count < capacity))
                count += here.to(tl.int32)
                left = tl.where(left > following[:, None], left, ITEMS)
                following = tl.min(left, 1)
        else:
            upper = (1 + error) * m - dots
            best = tl.where(allowed & (upper < best), upper, best)
    if bounds is not None:
        tl.store(counts + user * parts + part, count, mask=exist)
    else:
        groups = (user * parts + part)[:, None] * ITEMS + tl.arange(0, ITEMS)[None, :]
        tl.store(least + groups, best, mask=exist[:, None])


# Distances -----------------------------------------------------------------------------------------


@triton.jit
def pair_distance(users, items, user, item, exist, width, c, T: tl.constexpr, D: tl.constexpr):
    """The distance of each of these users to the item beside it."""
    # measure() looks for both rows at the item's place.
    users += tl.broadcast_to(((user - item) * width)[:, None], [item.shape[0], min(D, CHUNK)])
    sums, gap, _, _ = measure(users, items, (item, exist), width, T, D)
    w, _ = between_points(sums, gap, c)
    return 2 * root(w / c) * asinhc(w)


@tuned_tiles
@triton.jit
def listed_kernel(
    users, items, listed, ends, found, distances, c: "fp64", capacity, parts, num_halvings,
    num_rows, width: tl.constexpr, T: tl.constexpr, D: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """Joins the lists of each user's parts to one of ``capacity`` items, with their distances; behind
    the last: infinity and −1.
    """
    c = number(c, T)
    mine = my_rows(num_rows, D, ELEMENTS)
    place, exist = mine
    user, slot = place // capacity, (place % capacity).to(tl.int32)
    ends += user * parts
    exist &= slot < tl.load(ends + parts - 1, mask=exist, other=0)
    part = tl.zeros(user.shape, tl.int32)
    last = part + parts - 1
    for _ in range(num_halvings):  # the slot is one of part … last
        middle = (part + last) // 2
        later = slot >= tl.load(ends + middle, mask=exist, other=0)
        part = tl.where(later & (part < last), middle + 1, part)
        last = tl.where(later, last, middle)
    slot -= tl.load(ends + part - 1, mask=exist & (part > 0), other=0)
    exist &= slot < capacity  # else the user's items are looked through
    item = tl.load(listed + (user * parts + part) * capacity + slot, mask=exist, other=0)
    value = pair_distance(users, items, user, item, exist, width, c, T, D)
    write_numbers(distances, mine, tl.where(exist, value, float("inf")))
    write_numbers(found, mine, tl.where(exist, item, -1))


@triton.jit(do_not_specialize=["offset", "num_items", "capacity", "parts", "k"])
def look_through_kernel(
    users, items, rowptr, col, ends, distances, index,
    c: "fp64", offset, num_items, capacity, parts, k, width: tl.constexpr,
    T: tl.constexpr, D: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """Ranks one user, if more items are within its bound than a list holds."""
    c = number(c, T)
    user, one = tl.program_id(0).to(tl.int64), tl.zeros([1], tl.int64)
    if tl.load(ends + (user + 1) * parts - 1) > capacity:
        distance, nearest = tl.full((), -1, T), tl.full((), -1, tl.int64)
        for rank in range(k):
            best, where = tl.full([ITEMS], float("inf"), T), tl.full([ITEMS], -1, tl.int64)
            if rowptr is not None:
                at, end = seen_from(rowptr, col, offset, one + user, one == 0, 0)
                seen = seen_at(col, offset, at, end)
            last = tl.full((), 0, tl.int64)
            for _ in range(tl.cdiv(num_items, ITEMS)):
                item = last + tl.arange(0, ITEMS)
                last += ITEMS
                real = item < num_items
                value = pair_distance(users, items, user, item, real, width, c, T, D)
                later = (value > distance) | ((value == distance) & (item > nearest))
                later = (later & real & (value < best))[None, :]
                if rowptr is not None:
                    later, at, seen = unseen(later, item, last, col, offset, at, end, seen)
                later = tl.reshape(later, [ITEMS])
                best, where = tl.where(later, value, best), tl.where(later, item, where)
            distance = tl.min(best, 0)
            nearest = tl.min(tl.where(best == distance, where, 1 << 62), 0)
            tl.store(distances + user * k + rank, distance)
            tl.store(index + user * k + rank, nearest)


# The launcher --------------------------------------------------------------------------------------


def _heights(points: Tensor, c: float) -> Tensor:
    height = points.new_empty(points.shape[0])
    over_rows(height_kernel, *points.shape, points, height, c, T=TYPES[points.dtype])
    return height


def _rank(users, user_heights, items, item_heights, rowptr, col, offset, k: int, c: float):
    """topk of some users."""
    (num_users, width), num_items = users.shape, items.shape[0]
    columns = triton.next_power_of_2(width)
    of_a_tile = ITEM_BYTES // users.element_size()
    double = users.dtype == torch.float64
    # Registers: numbers of float64 take twice as many, and so do addresses where there are no vectors.
    of_a_block = USERS // (2 if double else 1) // (2 if width % 8 else 1)
    blocks, tiles = triton.cdiv(num_users, of_a_block), triton.cdiv(num_items, of_a_tile)
    capacity = 2 * k + 32  # of a list: a few more than k are within the bound
    kind = {"T": TYPES[users.dtype], "D": columns}
    tables = (users, items, user_heights, item_heights, rowptr, col)
    numbers = (c, (2 * width + 8) * torch.finfo(users.dtype).eps, offset, num_users, num_items)

    def products(parts: int, *results: Tensor | None, num_tiles: int) -> None:
        start(
            products_kernel, (blocks, parts), *tables, *results, *numbers, num_tiles, capacity, width,
            SLICE=SLICE, USERS=of_a_block, ITEMS=of_a_tile, num_warps=WARPS,
            # In float64 it spills with a limit, and not without.
            maxnreg=None if double else REGISTERS, **kind,
        )  # fmt: skip

    enough = max(triton.cdiv(GROUPS * k, of_a_tile), triton.cdiv(PROGRAMS, blocks))
    parts, num_tiles = _split(tiles, enough)
    least = users.new_empty(num_users, parts * of_a_tile)
    products(parts, least, None, None, None, num_tiles=num_tiles)
    bounds = torch.topk(least, k, dim=1, largest=False, sorted=False).values.amax(1)

    most = max(1, ENTRIES // (num_users * capacity))
    parts, num_tiles = _split(tiles, min(most, triton.cdiv(PROGRAMS, blocks)))
    listed = torch.empty(num_users, parts * capacity, dtype=torch.int64, device=users.device)
    counts = torch.empty(num_users, parts, dtype=torch.int32, device=users.device)
    products(parts, None, bounds, listed, counts, num_tiles=num_tiles)
    ends = counts.cumsum(1, dtype=torch.int32)

    distances = users.new_empty(num_users, capacity)
    found = torch.empty(num_users, capacity, dtype=torch.int64, device=users.device)
    over_rows(
        listed_kernel, found.numel(), width, users, items, listed, ends, found, distances, c, capacity,
        parts, parts.bit_length(), T=kind["T"],
    )  # fmt: skip
    # The ids ascend, so that a stable sort leaves the smaller one first.
    distances, order = torch.sort(distances, dim=1, stable=True)
    distances = distances[:, :k].contiguous()
    index = found.gather(1, order[:, :k])
    start(
        look_through_kernel, (num_users,), users, items, rowptr, col, ends, distances, index,
        c, offset, num_items, capacity, parts, k, width,
        ITEMS=max(1, SCANNED // (users.element_size() * min(columns, CHUNK.value))),
        num_warps=WARPS, maxnreg=REGISTERS, **kind,
    )  # fmt: skip
    return distances, index


def _split(tiles: int, parts: int) -> tuple[int, int]:
    """``parts`` ranges of tiles or fewer, none of them empty: their number, and of tiles in one."""
    num_tiles = triton.cdiv(tiles, min(tiles, parts))
    return triton.cdiv(tiles, num_tiles), num_tiles


def topk(users, items, rowptr, col, offset, k, c):
    users, items = users.contiguous(), items.contiguous()
    if rowptr is not None:
        rowptr, col = rowptr.contiguous(), col.contiguous()
    num_users = users.shape[0]
    distances = users.new_empty(num_users, k)
    index = torch.empty(num_users, k, dtype=torch.int64, device=users.device)
    user_heights, item_heights = _heights(users, c), _heights(items, c)
    at_once = max(1, ENTRIES // (GROUPS * (k + USERS)) // USERS) * USERS
    for first in range(0, num_users, at_once):
        some = slice(first, first + at_once)
        seen = None if rowptr is None else rowptr[first : first + at_once + 1]
        distances[some], index[some] = _rank(
            users[some], user_heights[some], items, item_heights, seen, col, offset, k, c
        )
    return distances, index
