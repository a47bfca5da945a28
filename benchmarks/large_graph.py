"""A graph of 10⁸ interactions on one machine: generated, built, trained for a few steps, in one memory.

    python benchmarks/large_graph.py --folder FOLDER            about ten minutes on two cores
    python benchmarks/large_graph.py --interactions 1e6 …       a small one, as CI runs it

Every part runs in a process of its own whose address space is limited (RLIMIT_AS): what does not fit
fails, it does not swap. Peak memory is the process's largest resident set, pages of mapped files and
the libraries (about 0.3 GiB) included.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path

import processes
from processes import MIB


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    number = float
    parser.add_argument("--users", type=number, help="by default a hundredth of the interactions")
    parser.add_argument("--items", type=number, help="by default a 200th of the interactions")
    parser.add_argument("--interactions", type=number, default=1e8)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--fanouts", default="5,3,2", help="of sampled training")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit", type=number, default=10, help="GB of address space [10]")
    parser.add_argument("--folder", type=Path, required=True, help="for the files, 4 GB; kept")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.users = int(options.users or options.interactions / 100)
    options.items = int(options.items or options.interactions / 200)
    options.interactions = int(options.interactions)
    if options.part:
        limit = int(options.limit * 10**9)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps(PARTS[options.part](options)))
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{options.users:,} users × {options.items:,} items, {options.interactions:,} interactions, "
          f"dim {options.dim}, batch {options.batch:,}, limit {options.limit:g} GB")  # fmt: skip
    print("| part | seconds | peak memory | bytes an edge | |\n|---|---|---|---|---|")
    for part in PARTS:
        seconds, peak, found = _run(part)
        each = peak / options.interactions
        print(
            f"| {part} | {seconds:.0f} | {peak / MIB:,.0f} MiB | {each:.1f} | {found} |", flush=True
        )
    return 0


def _run(part: str) -> tuple[float, int, str]:
    """Seconds, peak bytes and the report of a part in its own process."""
    try:
        made = processes.run([__file__, *sys.argv[1:], "--part", part])
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    return made.seconds, made.peak, json.loads(made.output)


def generate(options) -> str:
    from hdrm.data.synthetic_stream import power_law

    path = _interactions(options)
    if path.exists():
        return "already there"
    power_law(path, options.users, options.items, options.interactions, 0)
    return f"{path.stat().st_size / MIB:,.0f} MiB of Parquet"


def build(options) -> str:
    from hdrm.data.graph_files import build_graph

    folder = _graph(options)
    if folder.exists():
        return "already there"
    build_graph(_interactions(options), folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return f"{size / MIB:,.0f} MiB of files"


def full(options) -> str:
    return _train(options)


def sampled(options) -> str:
    fanouts = tuple(int(fanout) for fanout in options.fanouts.split(","))
    return _train(options, propagation="sampled", tables_on="host", fanouts=fanouts)


def _train(options, **settings) -> str:
    import torch

    from hdrm import HDRM
    from hdrm.config import Config
    from hdrm.data import load
    from hdrm.train.stages import EncoderStage

    graph = load(_graph(options)).graph  # of the split that `hdrm train` makes
    config = Config(
        dim=options.dim, encoder_batch=options.batch, encoder_negatives=1, layers=3, **settings
    )
    torch.manual_seed(0)
    model = HDRM(graph.num_users, graph.num_items, config)
    model.set_graph(graph)
    stage = EncoderStage(model, config)
    seconds, losses = [], []
    for step in range(options.steps):
        start = time.perf_counter()
        losses.append(stage.step(step) / options.batch)
        seconds.append(time.perf_counter() - start)
    return f"{statistics.median(seconds):.2f} s a step, loss of a pair {losses[0]:.4f} … {losses[-1]:.4f}"


def _interactions(options) -> Path:
    return options.folder / "interactions.parquet"


def _graph(options) -> Path:
    return options.folder / "graph"


PARTS = {"generate": generate, "build": build, "train, full": full, "train, sampled": sampled}

if __name__ == "__main__":
    sys.exit(main())
