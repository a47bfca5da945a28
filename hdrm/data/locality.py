"""Numbering nodes so that those with common neighbours are close to each other.

Random vectors, smoothed over the graph, differ little between nodes with common neighbours. The
nodes are halved at the median of the first, the halves at their medians of the second, and so on:
neighbours in the numbering agree on most vectors. Rows that follow each other then read the same
rows of a table, which are still in the cache.
"""

from __future__ import annotations

import numpy as np
import torch

from hdrm.graph import BipartiteGraph
from hdrm.ops import propagate

VECTORS = 14  # halvings: groups of N / 2^14 nodes
ROUNDS = 8  # of smoothing
BLOCK = 7  # vectors at a time; with the time column a row of 32 bytes
SMALLEST = 16  # groups of so many nodes are not halved


def locality_order(graph: BipartiteGraph) -> tuple[np.ndarray, np.ndarray]:
    """The order for users and for items: int64 (U,) and (I,), the node that gets each number.

    Takes some 100 bytes per node of memory, and reads the graph 16 times. The seed is fixed.
    """
    generator = torch.Generator().manual_seed(0)
    sides = slice(0, graph.num_users), slice(graph.num_users, graph.num_nodes)
    groups = [np.zeros(graph.num_users, np.int32), np.zeros(graph.num_items, np.int32)]
    for _ in range(VECTORS // BLOCK):
        x = torch.empty(graph.num_nodes, BLOCK + 1).normal_(generator=generator)
        for _ in range(ROUNDS):
            x = propagate(x, graph, 1, space="tangent")
        for side, rows in enumerate(sides):
            for vector in range(1, BLOCK + 1):
                _halve(groups[side], x[rows, vector].numpy())
    return tuple(np.argsort(group, kind="stable") for group in groups)


def _halve(group: np.ndarray, value: np.ndarray) -> None:
    """group becomes 2 · group + (value is in the upper half of its group), in place."""
    order = np.lexsort((value, group))
    ordered = group[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    size = np.diff(first, append=len(group))
    middle = np.where(size > SMALLEST, size // 2, size)
    upper = np.arange(len(group)) - np.repeat(first, size) >= np.repeat(middle, size)
    group *= 2
    group[order] += upper
