"""FAISS indices of the items, and how much of the exact ranking they find.

    flat    looks at every item
    hnsw    a navigable graph of 32 neighbours; effort: efSearch, candidates kept in a search
    ivf     cells of a k-means, 4·√I of them; effort: nprobe, cells that are looked into

Sources: Malkov, Yashunin, *Efficient and robust approximate nearest neighbor search using HNSW*, 2018;
Douze et al., *The Faiss library*, 2024.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..graph import CSR
from ..model import HDRM
from ..seeds import derive_seed
from .forms import scale_of, user_vectors

KINDS = ("flat", "hnsw", "ivf")
NEIGHBOURS = 32
CONSTRUCTION = 200  # efConstruction
CANDIDATES = 128  # efSearch by default
MOST_CELLS = 64  # nprobe by default: a quarter of the cells, at most so many
CELL = 39  # items a cell that k-means asks for
BLOCK = 64  # users searched for at a time: the one who has seen most decides how many are fetched


def load_faiss():
    """The module faiss; ImportError names the extra."""
    try:
        import faiss
    except ImportError:
        raise ImportError("an index needs faiss: pip install -e '.[faiss]'") from None
    return faiss


def build(vectors: Tensor, kind: str, *, inner_product: bool = False, effort: int | None = None):
    """A FAISS index of vectors (I, dim), numbered as they are.

    Args:
        kind: "flat", "hnsw" or "ivf".
        inner_product: search for the largest inner product, else for the smallest distance.
        effort: what a search takes: more is slower and nearer to exact; see the module. It is
            stored in the index.

    Raises:
        ImportError: faiss is not installed.
        ValueError: an unknown kind, effort < 1, or any effort for "flat".
    """
    faiss = load_faiss()
    if kind not in KINDS:
        raise ValueError(f"index must be one of {', '.join(KINDS)}, got {kind!r}")
    if effort is not None and (kind == "flat" or effort < 1):
        what = "flat looks at every item" if kind == "flat" else f"at least 1, got {effort}"
        raise ValueError(f"effort is of hnsw and ivf, {what}")
    data = vectors.detach().float().cpu().contiguous().numpy()
    size, width = data.shape
    metric = faiss.METRIC_INNER_PRODUCT if inner_product else faiss.METRIC_L2
    index = faiss.IndexFlat(width, metric)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, NEIGHBOURS, metric)
        index.hnsw.efConstruction = CONSTRUCTION
        index.hnsw.efSearch = effort or CANDIDATES
    elif kind == "ivf":
        cells = max(min(4 * math.isqrt(size), size // CELL), 1)
        coarse = index
        index = faiss.IndexIVFFlat(coarse, width, cells, metric)
        coarse.this.disown()  # the index owns it: it is written and freed with it
        index.own_fields = True
        index.nprobe = min(effort or min(-(-cells // 4), MOST_CELLS), cells)
        index.train(data)
    index.add(data)
    return index


def write(index, path: Path) -> None:
    """Write an index for faiss.read_index; OSError if that fails."""
    try:
        load_faiss().write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"the index cannot be written: {error}") from error


def search(index, queries: Tensor, k: int, seen: CSR) -> Tensor:
    """The first k of what an index finds for each query that are not among its seen items.

    As many more are fetched as any of the queries has seen.

    Args:
        queries: (B, dim), in the users' form.
        seen: CSR (B × I) on the CPU.

    Returns:
        int64 (B, k), best first; −1 where fewer are found.
    """
    fetched = min(k + int(seen.degrees.max()), index.ntotal)
    data = queries.detach().float().cpu().contiguous().numpy()
    found = torch.from_numpy(index.search(data, fetched)[1])
    rows, cols = seen.pairs()
    place = torch.arange(len(found))[:, None] * seen.num_cols + found
    left_out = torch.isin(place, rows * seen.num_cols + cols)
    first = left_out.int().argsort(dim=1, stable=True)[:, :k]
    found = found.masked_fill_(left_out, -1).gather(1, first)
    return F.pad(found, (0, k - found.shape[1]), value=-1)


def recall(model: HDRM, index, form: str, k: int, sample: int = 1000) -> float:
    """Recall@k of an index: the share of the exact k nearest unseen items that it finds.

    Over ``sample`` users, drawn with a fixed seed; both sides leave the training items out, as
    HDRM.recommend does.

    Raises:
        ValueError: k is not in 1 … I.
    """
    user_points, item_points = model.points()
    c = model.config.curvature
    generator = torch.Generator().manual_seed(derive_seed("recall of an index"))
    users = torch.randperm(model.num_users, generator=generator)[:sample].to(user_points.device)
    users = users[model.graph.user_items.degrees[users].argsort()]  # blocks of alike users
    scale = scale_of(item_points)
    hits = total = 0
    for block in users.split(BLOCK):
        points, seen = user_points[block], model.graph.user_items.rows(block)
        exact = ops.topk(points, item_points, k, exclude=seen, c=c)[1].cpu()
        queries = user_vectors(points, form, c=c, scale=scale)
        found = search(index, queries, k, seen.to("cpu"))
        hits += int(((exact[:, :, None] == found[:, None, :]) & (exact >= 0)[:, :, None]).sum())
        total += int((exact >= 0).sum())
    return hits / max(total, 1)
