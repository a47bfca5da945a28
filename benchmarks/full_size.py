"""A step of every stage at the size of Yelp and Amazon-Book, on generated data: its time and its memory.

    python benchmarks/full_size.py --folder FOLDER                 dim 64
    python benchmarks/full_size.py --folder FOLDER --dims 64 512   the largest takes 8 GB
    python benchmarks/full_size.py --folder FOLDER --divide 50     a small one

Interactions are generated once (power laws and a tree of tastes), split 70/10/20 and kept in FOLDER.
Every row is a process of its own that reads them, makes the model and takes --steps steps as a training
does; its peak is the largest resident set, libraries (about 0.45 GB) included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import processes

DATA = {"yelp": (54_574, 34_395, 1_402_736), "amazon-book": (108_822, 94_949, 3_146_256)}
# Preset before the data set's name, stage, settings.
ROWS = {
    "encoder": ("", "encoder", {}),
    "diffusion, tables frozen": ("", "diffusion", {"tables": "frozen"}),
    "diffusion, tables trained": ("", "diffusion", {"tables": "joint"}),
    "published encoder": ("paper-", "encoder", {}),
    "published diffusion, tables frozen": ("paper-", "diffusion", {"tables": "frozen"}),
    "published diffusion, tables trained": ("paper-", "diffusion", {"tables": "joint"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the data; kept")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--dims", nargs="+", type=int, default=[64])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--divide", type=int, default=1, help="all sizes of the data")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(PARTS[options.part](options)))
        return 0
    print("| data | dim | batch | step | seconds | peak memory, MiB | loss |")
    print("|---|---|---|---|---|---|---|")
    for data in options.data:
        if not _folder(options, data).exists():
            _part(options, "generate", data)
        for dim in options.dims:
            for row in ROWS:
                made = _part(options, row, data, dim)
                found = json.loads(made.output)
                cells = [data, dim, f"{found['batch']:,}", row, f"{found['seconds']:.2f}"]
                cells += [f"{made.peak / processes.MIB:,.0f}", f"{found['loss']:.4g}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


def _part(options: argparse.Namespace, part: str, data: str, dim: int = 64) -> processes.Measured:
    numbers = ["--steps", str(options.steps), "--divide", str(options.divide), "--dims", str(dim)]
    try:
        return processes.run(
            [__file__, "--folder", str(options.folder), "--data", data, *numbers, "--part", part]
        )
    except RuntimeError as error:
        sys.exit(f"error: {error}")


def _folder(options: argparse.Namespace, data: str) -> Path:
    return options.folder / f"{data}-{options.divide}"


def generate(options: argparse.Namespace) -> None:
    import numpy as np

    from hdrm.data.splits import per_user
    from hdrm.data.synthetic import hierarchical

    (data,) = options.data
    folder = _folder(options, data)
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    pairs = hierarchical(*(size // options.divide for size in DATA[data]), 0)
    for name, split in zip(("train", "valid", "test"), per_user(pairs, 0)):
        np.save(partial / f"{name}_list.npy", split)
    partial.rename(folder)


def steps(options: argparse.Namespace) -> dict:
    """The batch, the median seconds of a step, and the last loss."""
    import torch

    from hdrm import HDRM
    from hdrm.config import PRESETS
    from hdrm.data import load
    from hdrm.train.pair_diffusion import PairDiffusionStage
    from hdrm.train.stages import DiffusionStage, EncoderStage
    from hdrm.train.trainer import Average

    (data,), (dim,) = options.data, options.dims
    prefix, kind, settings = ROWS[options.part]
    config = PRESETS[prefix + data].replace(dim=dim, **settings)
    dataset = load(_folder(options, data))
    torch.manual_seed(0)
    model = HDRM(dataset.num_users, dataset.num_items, config)
    model.set_graph(dataset.graph)
    diffusion = PairDiffusionStage if config.conditioning == "pair" else DiffusionStage
    stage = (EncoderStage if kind == "encoder" else diffusion)(model.train(), config)
    average = Average(stage.averaged, config.averaging)
    stage.begin_epoch(1)
    seconds = []
    for step in range(options.steps):
        start = time.perf_counter()
        loss = stage.step(step)
        average.update()
        seconds.append(time.perf_counter() - start)
    batch = config.encoder_batch if kind == "encoder" else config.diffusion_batch
    return {"batch": batch, "seconds": statistics.median(seconds), "loss": loss}


PARTS = {"generate": generate, **dict.fromkeys(ROWS, steps)}

if __name__ == "__main__":
    sys.exit(main())
