"""Steps of the encoder by 1, 2, 4 … processes of one machine: strong and weak scaling, over gloo.

    python benchmarks/scaling.py --folder FOLDER
    python benchmarks/scaling.py --folder FOLDER --interactions 1e5 --processes 1,2     a small one

strong: one generated graph for all numbers of processes. weak: a graph of --interactions a process, of
as many users and items in proportion. Processes have one thread each. Where they are more than the
machine has cores they take turns, and the times say nothing about machines of their own: what is
received does.

Each row is a job of its own, started by torchrun, that makes --steps steps of ``hdrm train --preset
large`` after one that is not counted. Seconds are of the slowest process; "exchanging" is the time that
the first process spends in exchanges, waiting for the others included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MIB = 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="for the graphs; kept")
    parser.add_argument("--interactions", type=float, default=1e6)
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options)
    counts = [int(count) for count in options.processes.split(",")]
    print(f"dim {options.dim}, batch {options.batch:,}, {options.steps} steps, {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print("| scaling | processes | interactions | seconds a step | times one process | exchanging | "
          "received a step |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for scaling in ("strong", "weak"):
        one = None
        for count in counts:
            interactions = int(options.interactions * (count if scaling == "weak" else 1))
            found = run(graph(options.folder, interactions), count)
            one = one or found["seconds"]
            print(f"| {scaling} | {count} | {interactions:,} | {found['seconds']:.2f} | "
                  f"{found['seconds'] / one:.2f} | {found['exchanging']:.2f} | "
                  f"{found['received'] / MIB:,.1f} MiB |", flush=True)  # fmt: skip
    return 0


def graph(folder: Path, interactions: int) -> Path:
    """The folder of a generated graph."""
    from hdrm.data.graph_files import build_graph
    from hdrm.data.synthetic_stream import power_law

    made = folder / f"{interactions}"
    if not made.exists():
        pairs = folder / f"{interactions}.parquet"
        pairs.unlink(missing_ok=True)
        power_law(pairs, interactions // 25, interactions // 50, interactions, 0)
        build_graph(pairs, made)
        pairs.unlink()
    return made


def run(folder: Path, processes: int) -> dict:
    """What a job of so many processes came to."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), __file__, *sys.argv[1:], "--work", str(folder)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        sys.exit(f"error: {processes} processes ended with code {done.returncode}; see above")
    return json.loads(done.stdout.splitlines()[-1])


def work(options) -> int:
    """One of the processes."""
    from hdrm.distributed import launch

    with launch.joined("cpu") as world:
        found = measured(options, world)
    if found is not None:
        print(json.dumps(found), flush=True)
    return 0


def measured(options, world) -> dict | None:
    """What the steps came to, at the first process."""
    import torch

    from hdrm.config import PRESETS
    from hdrm.distributed import data
    from hdrm.model import HDRM
    from hdrm.train.stages import EncoderStage

    exchange, spent = world.exchange, [0.0]

    def timed(*arguments, **named):
        start = time.perf_counter()
        try:
            return exchange(*arguments, **named)
        finally:
            spent[0] += time.perf_counter() - start

    world.exchange = timed
    dataset = data.load(options.work, world)
    config = PRESETS["large"].replace(
        dim=options.dim, encoder_batch=options.batch, encoder_negatives=1
    )
    torch.manual_seed(0)
    own = dataset.graph.team.own_nodes
    model = HDRM(dataset.num_users, dataset.num_items, config, own=own)
    model.set_graph(dataset.graph)
    stage = EncoderStage(model, config)
    stage.step(0)
    world.received.clear()
    spent[0], seconds = 0.0, []
    for step in range(1, options.steps + 1):
        world.barrier()
        start = time.perf_counter()
        stage.step(step)
        world.barrier()
        seconds.append(time.perf_counter() - start)
    if world.rank:
        return None
    return {
        "seconds": statistics.median(seconds),
        "exchanging": spent[0] / options.steps,
        "received": sum(world.received.values()) / options.steps,
    }


if __name__ == "__main__":
    sys.exit(main())
