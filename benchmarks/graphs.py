"""The graphs and data sets of the benchmarks: real ones where they are, generated ones of any size."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from harness import DEVICE, SMALL

from hdrm import BipartiteGraph, data
from hdrm.data import Dataset
from hdrm.data.synthetic import hierarchical
from hdrm.data.synthetic_stream import power_law

REAL = {"ML-1M": "ml-1m_clean", "Gowalla": "gowalla"}
GENERATED = {"10⁵ edges": 10**5, "10⁶ edges": 10**6, "10⁷ edges": 10**7}
LARGEST = {"10⁸ edges": 10**8}
if SMALL:
    del REAL["Gowalla"]
    GENERATED = {name: edges // 100 for name, edges in GENERATED.items()}
    LARGEST = {name: edges // 1_000 for name, edges in LARGEST.items()}


@functools.lru_cache(maxsize=2)
def dataset(name: str) -> Dataset:
    """A real data set, or a skipped test that says where it was looked for."""
    try:
        return data.load(REAL[name])
    except FileNotFoundError as error:
        pytest.skip(f"{name}: {' '.join(str(error).split())}")


@functools.lru_cache(maxsize=1)
def pairs(name: str) -> tuple[np.ndarray, int, int]:
    """int64 (E, 2) of (user, item), and the numbers of users and items.

    The nodes of generated graphs are E/40 users and E/80 items: about Gowalla's density, so that the
    tables outgrow the caches as the graph grows.
    """
    if name in REAL:
        found = dataset(name)
        interactions = torch.stack(found.train.pairs(), 1).numpy()
        return interactions, found.num_users, found.num_items
    edges = (GENERATED | LARGEST)[name]
    users, items = max(edges // 40, 200), max(edges // 80, 100)
    if name in LARGEST:  # through a file: the other generator would need 20 GB
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "interactions.parquet"
            power_law(file, users, items, edges, seed=0)
            return pl.read_parquet(file).to_numpy(), users, items
    return hierarchical(users, items, min(edges, users * items // 10), seed=0), users, items


@functools.lru_cache(maxsize=1)
def graph(name: str) -> BipartiteGraph:
    interactions, num_users, num_items = pairs(name)
    return BipartiteGraph.from_interactions(*interactions.T, num_users, num_items).to(DEVICE)
