"""How tree-like the graph's distances are: Gromov's δ over sampled nodes.

Of four nodes, the two largest of d(w,x) + d(y,z), d(w,y) + d(x,z), d(w,z) + d(x,y) differ by 2δ at
most; in a tree they are equal (Gromov, Hyperbolic Groups, 1987). δ_rel = 2δ / diameter lies in 0 … 1
and compares data sets (Khrulkov et al., Hyperbolic Image Embeddings, CVPR 2020); Chami et al.
(Hyperbolic Graph Convolutional Neural Networks, NeurIPS 2019) report δ beside what they gained.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from hdrm.graph import BipartiteGraph
from hdrm.seeds import derive_seed

NODES = 64  # a bit each in the search
LEVELS = 64  # the largest distance looked for: a level walks over all edges
BLOCK = 2**22  # entries of the graph looked at in one go


@dataclass(frozen=True)
class Hyperbolicity:
    """δ of ``nodes`` sampled nodes: the largest and the mean over all fours, and their diameter."""

    nodes: int
    delta: float
    mean: float
    diameter: int

    @property
    def relative(self) -> float:
        """2δ / diameter, 0 (a tree) … 1."""
        return 2 * self.delta / self.diameter


def sampled_hyperbolicity(graph: BipartiteGraph, *, seed: int = 0) -> Hyperbolicity | None:
    """δ over up to 64 nodes drawn uniformly from those with edges, of one connected component.

    The sample's δ and diameter are at most the graph's. Time: a walk over the edges for each unit of
    the largest distance, 64 at most; memory: 16 bytes a node and 32 MB.

    None if fewer than four of the nodes are within a distance of 64 of all others.
    """
    degrees = graph.rowptr.diff().numpy()
    candidates = np.flatnonzero(degrees)
    random = np.random.Generator(np.random.PCG64(derive_seed("hyperbolicity", seed)))
    nodes = random.choice(candidates, min(NODES, len(candidates)), replace=False)
    distances = pairwise_distances(graph, nodes)
    reached = distances >= 0
    kept = reached[np.argmax(reached.sum(axis=1))]
    distances = distances[np.ix_(kept, kept)]
    if len(distances) < 4 or (distances < 0).any():
        return None
    delta, mean = four_point(distances)
    return Hyperbolicity(len(distances), delta, mean, int(distances.max()))


def pairwise_distances(graph: BipartiteGraph, nodes: np.ndarray) -> np.ndarray:
    """int16 (S, S): edges on the shortest paths between S ≤ 64 nodes; −1 beyond 64 or unreachable.

    All searches run at once: a bit of a node's word says that a source has reached it, and a level
    takes the bitwise or over neighbours (Then et al., The More the Merrier, VLDB 2014).
    """
    rowptr, col = graph.rowptr.numpy(), graph.col.numpy()
    words = np.zeros(graph.num_nodes, np.uint64)
    bits = np.uint64(1) << np.arange(len(nodes), dtype=np.uint64)
    words[nodes] = bits
    distances = np.full((len(nodes), len(nodes)), -1, np.int16)
    np.fill_diagonal(distances, 0)
    for level in range(1, LEVELS + 1):
        grown = _or_neighbours(rowptr, col, words)
        arrived = (grown[nodes, None] & bits) != 0
        distances[arrived & (distances < 0)] = level
        if (distances >= 0).all() or np.array_equal(grown, words):
            break
        words = grown
    return distances


def _or_neighbours(rowptr: np.ndarray, col: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Each node's word with its neighbours' in it."""
    grown = words.copy()
    first = 0
    while first < len(words):
        last = int(np.searchsorted(rowptr, rowptr[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), len(words))
        rows = first + np.flatnonzero(np.diff(rowptr[first : last + 1]))
        if len(rows):
            found = words[col[rowptr[first] : rowptr[last]]]
            grown[rows] |= np.bitwise_or.reduceat(found, rowptr[rows] - rowptr[first])
        first = last
    return grown


def four_point(distances: np.ndarray) -> tuple[float, float]:
    """The largest δ of four points and the mean over all fours; distances: a metric, integers (n, n), n ≥ 4."""
    largest, total, n = 0, 0, len(distances)
    for w in range(n):
        for x in range(w):
            sums = np.stack(
                (
                    distances[w, x] + distances,  # over all y, z
                    np.add.outer(distances[w], distances[x]),
                    np.add.outer(distances[x], distances[w]),
                )
            )
            sums.sort(axis=0)
            twice = sums[2] - sums[1]  # 0 where points coincide
            largest = max(largest, int(twice.max()))
            total += int(twice.sum(dtype=np.int64))
    # A four is met as each of its 6 pairs, and the other two in both orders.
    return largest / 2, total / 2 / 12 / comb(n, 4)
