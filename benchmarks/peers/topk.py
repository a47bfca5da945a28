"""Exact ranking of all items by Lorentz distance, with what people use for inner products.

d is monotone in −⟨x, y⟩ = x0·y0 − xs·ys, so the nearest items are those of the greatest inner product
with the flipped user (−x0, xs). Every maker returns a call that gives item ids (U, k), seen items left
out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from harness import LeftOut
from torch import Tensor

from hdrm import CSR

BLOCK = 1024  # users at a time: the block's scores are tens of megabytes
# (user, item) pairs beyond which rows that take minutes for them are left out
MOST_PAIRS = 2 * 10**8


def _flipped(users: Tensor) -> Tensor:
    return torch.cat([-users[:, :1], users[:, 1:]], 1)


def _pairs(seen: CSR) -> tuple[Tensor, Tensor]:
    """Row and item of every seen pair."""
    first, last = int(seen.rowptr[0]), int(seen.rowptr[-1])
    users = torch.repeat_interleave(torch.arange(seen.num_rows), seen.degrees)
    return users, seen.col[first:last].long() - seen.offset


def _in_blocks(users: Tensor, seen: CSR, k: int, scores: Callable[[int, int], Tensor]) -> Callable:
    """Scores of a block of users, seen ones to −inf, torch.topk."""
    row, item = _pairs(seen)
    ends = (seen.rowptr - seen.rowptr[0]).tolist()

    def run():
        found = []
        for start in range(0, len(users), BLOCK):
            stop = min(start + BLOCK, len(users))
            block = scores(start, stop)
            part = slice(ends[start], ends[stop])
            block[row[part] - start, item[part]] = -torch.inf
            found.append(torch.topk(block, k).indices)
        return torch.cat(found)

    return run


def matmul(users: Tensor, items: Tensor, seen: CSR, k: int) -> Callable:
    flipped, transposed = _flipped(users), items.T
    return _in_blocks(users, seen, k, lambda a, b: flipped[a:b] @ transposed)


def cdist(users: Tensor, items: Tensor, seen: CSR, k: int) -> Callable:
    """torch.cdist on points of the same length: |x−y|² = |x|² + |y|² − 2x·y, with a column more.

    Items get √(m² − |y|²), users 0, so that the Euclidean order is that of the inner product.
    """
    length = items.square().sum(1)
    lifted = torch.cat([items, (length.max() - length).sqrt()[:, None]], 1)
    flipped = torch.cat([_flipped(users), torch.zeros(len(users), 1)], 1)
    return _in_blocks(users, seen, k, lambda a, b: -torch.cdist(flipped[a:b], lifted))


def _minutes(users: Tensor, items: Tensor) -> None:
    if len(users) * len(items) > MOST_PAIRS:
        raise LeftOut(f"takes minutes a call for {len(users):,} users × {len(items):,} items")


def faiss_flat(users: Tensor, items: Tensor, seen: CSR, k: int) -> Callable:
    """FAISS' exact index. It knows no mask per user: it is asked for as many more as a user may have
    seen, and these are taken out afterwards."""
    import faiss

    _minutes(users, items)
    most = int(seen.degrees.max())
    wanted = min(k + most, len(items))
    if wanted > 2048:
        raise LeftOut(f"a user has seen {most} items, and FAISS has no mask per user")
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items.cpu().numpy())
    flipped = _flipped(users).cpu().numpy()
    row, item = (ids.cpu().numpy() for ids in _pairs(seen))
    keys = np.sort(row * len(items) + item)

    def run():
        _, ids = index.search(flipped, wanted)
        pairs = np.arange(len(users))[:, None] * len(items) + ids
        place = np.minimum(np.searchsorted(keys, pairs), len(keys) - 1)
        order = np.argsort(keys[place] == pairs, axis=1, kind="stable")[:, :k]
        return torch.from_numpy(np.take_along_axis(ids, order, 1))

    return run


def implicit_topk(users: Tensor, items: Tensor, seen: CSR, k: int) -> Callable:
    from implicit.cpu.topk import topk
    from scipy.sparse import csr_matrix

    _minutes(users, items)
    row, item = (ids.cpu().numpy() for ids in _pairs(seen))
    mask = csr_matrix((np.ones(len(row), np.float32), (row, item)), shape=(len(users), len(items)))
    factors, queries = items.cpu().numpy(), _flipped(users).cpu().numpy()
    threads = torch.get_num_threads()

    def run():
        ids, _ = topk(factors, queries, k, filter_query_items=mask, num_threads=threads)
        return torch.from_numpy(ids).long()

    return run


PEERS = {
    "matmul + topk": matmul,
    "cdist + topk": cdist,
    "FAISS": faiss_flat,
    "implicit": implicit_topk,
}
