"""Data that no setting was chosen on by name: made from those at hand, HDRM beside EASE and LightGCN.

    python benchmarks/derived_sets.py --folder FOLDER [--only PATTERN] [--seeds 0,1,2]

ml-random       ml-1m_clean, all splits pooled, a random 70/10/20 of each user's items
ml-sparse       a fifth of its interactions, 5-core, split likewise
ml-small        943 of its users, as many as MovieLens-100K has, split likewise
ml-head         its 300 most frequent items, 5-core, split likewise
gowalla-head    Gowalla's 6,000 most frequent items, 10-core, split likewise
gowalla-short   6,000 of its users with 5 to 20 items, 5-core, split likewise
gowalla-sparse  three in ten of its users, 5-core, split likewise
gowalla-thin    three in ten of its interactions, 5-core, split likewise

They are written into FOLDER as `hdrm data` writes them, so that `hdrm train FOLDER/NAME` trains on them,
which is what is done here: the default preset, one process a seed. EASE's λ and LightGCN's epoch are
chosen on validation. EASE's time grows with the cube of the items: where they are more than 10,000 it is left out.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import processes

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20")
MOST_FOR_EASE = 10_000  # items
REGULARISATIONS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", default="*")
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    print("| data | ranker | Recall@10 | NDCG@10 | Recall@20 | NDCG@20 | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, make in SETS.items():
        if not fnmatch.fnmatch(name, options.only):
            continue
        folder = options.folder / name
        if not folder.exists():
            write(make(), name, folder)
        for ranker, test in euclidean(folder):
            row(name, ranker, [test])
        for preset in ("best", "large"):
            rows, seconds = [], []
            for seed in options.seeds.split(","):
                run = options.folder / f"{name}-{preset}-{seed}"
                arguments = ["--preset", preset, "--seed", seed, "--out", str(run)]
                with open(f"{run}.log", "w") as log:
                    made = processes.run(["-m", "hdrm", "train", str(folder), *arguments], log)
                seconds.append(made.seconds)
                rows.append(json.loads((run / "report.json").read_text())["hdrm"])
            row(name, f"HDRM, `{preset}`", rows, max(seconds))


def row(name: str, ranker: str, rows: list[dict], seconds: float | None = None) -> None:
    """A line of the table: means over the rows, with their deviation where there are several."""
    cells = []
    for metric in METRICS:
        values = [found[metric] for found in rows]
        spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.4f}{spread}")
    time = "" if seconds is None else f"{seconds:.0f}"
    print("|", " | ".join([f"`{name}`", ranker, *cells, time]), "|", flush=True)


def euclidean(folder: Path) -> Iterator[tuple[str, dict]]:
    """The names and test metrics of the rankers to stand beside."""
    from hdrm import baselines
    from hdrm.data import load

    dataset = load(str(folder))
    if dataset.num_items <= MOST_FOR_EASE:
        candidates = ((x, baselines.ease(dataset.train, x)) for x in REGULARISATIONS)
        strength, _, test = baselines.chosen(candidates, dataset)
        yield f"EASE, λ = {strength}", test
    epoch, _, test = baselines.chosen(
        baselines.lightgcn(dataset.graph), dataset, baselines.PATIENCE
    )
    yield f"LightGCN, {epoch} epochs", test


def write(pairs: np.ndarray, name: str, folder: Path) -> None:
    """A random split of pairs (n, 2), renumbered, as a folder that `hdrm train` reads."""
    from hdrm.data import Dataset, splits
    from hdrm.data.writers import write_folder

    users, user = np.unique(pairs[:, 0], return_inverse=True)
    items, item = np.unique(pairs[:, 1], return_inverse=True)
    pairs = np.stack([user, item], 1)
    write_folder(
        Dataset.from_pairs(name, len(users), len(items), *splits.per_user(pairs, 0)), folder
    )


def pooled(name: str) -> np.ndarray:
    """All interactions of a data set, int64 (n, 2)."""
    from hdrm.data import load

    parts = [
        np.stack([ids.numpy() for ids in split.pairs()], 1) for split in load(name).splits.values()
    ]
    return np.concatenate(parts)


def thinned(name: str, share: float) -> np.ndarray:
    """A share of the interactions of a data set, and of these the 5-core."""
    from hdrm.data.splits import k_core

    pairs = pooled(name)
    pairs = pairs[np.random.default_rng(0).random(len(pairs)) < share]
    return pairs[k_core(pairs, 5)]


def ml_small() -> np.ndarray:
    pairs = pooled("ml-1m_clean")
    users = np.unique(pairs[:, 0])
    return pairs[np.isin(pairs[:, 0], np.random.default_rng(0).choice(users, 943, replace=False))]


def frequent(pairs: np.ndarray, items: int, core: int) -> np.ndarray:
    """The pairs of so many items, the most frequent, and of these the ``core``-core."""
    from hdrm.data.splits import k_core

    kept = np.argsort(-np.bincount(pairs[:, 1]))[:items]
    pairs = pairs[np.isin(pairs[:, 1], kept)]
    return pairs[k_core(pairs, core)]


def gowalla_short() -> np.ndarray:
    from hdrm.data.splits import k_core

    pairs = pooled("gowalla")
    count = np.bincount(pairs[:, 0])
    short = np.flatnonzero((count >= 5) & (count <= 20))
    pairs = pairs[np.isin(pairs[:, 0], np.random.default_rng(0).choice(short, 6000, replace=False))]
    return pairs[k_core(pairs, 5)]


def gowalla_sparse() -> np.ndarray:
    from hdrm.data.splits import k_core

    pairs = pooled("gowalla")
    taken = np.random.default_rng(1).random(pairs[:, 0].max() + 1) < 0.3
    pairs = pairs[taken[pairs[:, 0]]]
    return pairs[k_core(pairs, 5)]


SETS = {
    "ml-random": lambda: pooled("ml-1m_clean"),
    "ml-sparse": lambda: thinned("ml-1m_clean", 0.2),
    "ml-small": ml_small,
    "ml-head": lambda: frequent(pooled("ml-1m_clean"), 300, 5),
    "gowalla-head": lambda: frequent(pooled("gowalla"), 6000, 10),
    "gowalla-short": gowalla_short,
    "gowalla-sparse": gowalla_sparse,
    "gowalla-thin": lambda: thinned("gowalla", 0.3),
}


if __name__ == "__main__":
    main()
