"""The peak of a training step on a GPU, without a GPU: ours in every mode, beside the authors'.

    python benchmarks/device_memory.py            about a minute on two cores, 3 GB

Steps run on fake tensors (phantom.py), so that tables cost nothing; the graphs are real, with random
neighbours, as many at every user and at every item. A peak holds all that is alive on the device:
points, momentum, running averages, the graph, what the step allocates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import geoopt
import numpy as np
import phantom
import torch
from peers import authors
from torch import Tensor

from hdrm import CSR, HDRM, BipartiteGraph
from hdrm.config import PRESETS, Config
from hdrm.train.average import Average
from hdrm.train.pair_diffusion import PairDiffusionStage
from hdrm.train.plan import DIFFUSION, ENCODER, Sizes, plan
from hdrm.train.stages import DiffusionStage, EncoderStage

GIB = 2**30
AMAZON_BOOK = (108_822, 94_949, 3_146_256)  # users, items, interactions
LARGE = (10**6, 5 * 10**5, 10**8)
PAPER = PRESETS["amazon-book"].replace(
    dim=512, encoder_batch=20_000, diffusion_batch=20_000, averaging=0.0
)
JOINT = PAPER.replace(tables="joint")
SAMPLED = {"propagation": "sampled", "tables_on": "host"}

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One step to measure; ``make`` is :func:`ours` or :func:`theirs`."""

    name: str
    make: Callable[[BipartiteGraph, Config, type], Step]
    config: Config
    stage: type = EncoderStage

    def peak(self, graph: BipartiteGraph) -> phantom.Peak:
        return phantom.peak(partial(self.make, graph, self.config, self.stage))

    def planned(self, sizes: Sizes) -> int | None:
        """What `hdrm plan` says of these steps; None of the authors'."""
        if self.make is theirs:
            return None
        found = plan(self.config, sizes)
        steps = ENCODER[:2] if self.stage is EncoderStage else DIFFUSION[:-1]
        return max(found.bytes_in(phase) for phase in steps)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, help="by default all of them")
    parser.add_argument("--json", action="store_true", help="bytes, one row a line")
    options = parser.parse_args()
    for name in [options.size] if options.size else SIZES:
        title, size, rows = SIZES[name]
        graph, against = regular_graph(*size), None
        if not options.json:
            print(f"\n{title}\n\n| step | device, GiB | planned | of the authors' | host |\n"
                  "|---|---|---|---|---|")  # fmt: skip
        for row in rows():
            found, planned = row.peak(graph), row.planned(Sizes(*size))
            against = against or (found.device if row.make is theirs else None)
            if options.json:
                report = {"name": row.name, "planned": planned, **vars(found)}
                print(json.dumps(report), flush=True)
                continue
            cells = [
                row.name,
                f"{found.device / GIB:.2f}",
                f"{planned / GIB:.2f}" if planned else "",
                f"{found.device / against:.2f}" if against else "",
                f"{found.host / GIB:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    return 0


def of_amazon_book() -> Iterator[Row]:
    host = {"tables_on": "host"}
    yield Row("authors, tables trained with the denoisers", theirs, JOINT)
    yield Row("authors, tables frozen", theirs, PAPER)
    yield Row("joint", ours, JOINT, DiffusionStage)
    yield Row("joint, tables on the host", ours, JOINT.replace(**host), DiffusionStage)
    yield Row("diffusion, tables frozen", ours, PAPER, DiffusionStage)
    published = PRESETS["paper-amazon-book"]
    yield Row("joint, as published", ours, published.replace(tables="joint"), PairDiffusionStage)
    yield Row("diffusion, as published", ours, published, PairDiffusionStage)
    yield Row("encoder", ours, PAPER)
    yield Row("encoder, tables on the host", ours, PAPER.replace(**host))
    sampled = PAPER.replace(**SAMPLED, encoder_batch=2_000, fanouts=(5, 2))
    yield Row("encoder, sampled, batch 2,000, fan-outs 5, 2", ours, sampled)


def of_large() -> Iterator[Row]:
    config = Config(dim=64, encoder_negatives=1)
    yield Row("encoder", ours, config)
    yield Row("encoder, bfloat16 work tables", ours, config.replace(work_tables="bfloat16"))
    yield Row("encoder, tables on the host", ours, config.replace(tables_on="host"))
    sampled = config.replace(**SAMPLED, fanouts=(5, 3, 2))
    yield Row("encoder, sampled, fan-outs 5, 3, 2", ours, sampled)
    yield Row("the same with 16 negatives", ours, sampled.replace(encoder_negatives=16))


SIZES = {
    "amazon-book": ("Amazon-Book's size, dim 512, batch 20,000", AMAZON_BOOK, of_amazon_book),
    "large": (
        "10⁶ users × 5·10⁵ items × 10⁸ interactions, dim 64, batch 10,000",
        LARGE,
        of_large,
    ),
}


def regular_graph(num_users: int, num_items: int, interactions: int) -> BipartiteGraph:
    """E/U random items at every user and E/I random users at every item.

    The two directions are drawn apart, and a row may name a node twice: only sizes matter here.
    """
    generator = np.random.default_rng(0)
    halves = []
    for rows, first, others in ((num_users, num_users, num_items), (num_items, 0, num_users)):
        shape = (rows, interactions // rows)
        halves.append(np.sort(generator.integers(first, first + others, shape, dtype=np.int32)))
    degrees = np.repeat([half.shape[1] for half in halves], [len(half) for half in halves])
    rowptr = torch.from_numpy(np.concatenate([[0], np.cumsum(degrees)]))
    col = torch.from_numpy(np.concatenate([half.reshape(-1) for half in halves]))
    seen = CSR(rowptr[: num_users + 1], col, num_items, offset=num_users)
    return BipartiteGraph(rowptr, col, num_users, num_items, seen)


def ours(graph: BipartiteGraph, config: Config, stage: type) -> Step:
    """Steps of a stage as Trainer makes them."""
    model = HDRM(graph.num_users, graph.num_items, config)
    phantom.place(model, keep=[model.encoder.table] if config.tables_on == "host" else [])
    model.set_graph(graph.to(phantom.DEVICE))
    made = stage(model.train(), config)
    average = Average(made.averaged, config.averaging)
    made.begin_epoch(1)
    steps = itertools.count()

    def step() -> None:
        made.step(next(steps))
        average.update()

    return step


def theirs(graph: BipartiteGraph, config: Config, stage: type) -> Step:
    """Steps of the authors' diffusion training, with tables that are trained or frozen."""
    table_sizes, ids = (graph.num_users, graph.num_items), _batch(graph, config.diffusion_batch)
    matrix = _Matrix(2 * graph.num_edges + graph.num_nodes)
    tables = [
        geoopt.ManifoldParameter(
            torch.empty(size, config.dim, device=phantom.DEVICE), manifold=geoopt.Lorentz()
        )
        for size in table_sizes
    ]
    denoisers = [authors.Denoiser(config.dim, config.hidden) for _ in range(2)]
    for denoiser in denoisers:
        phantom.place(denoiser)
    weights = [p for denoiser in denoisers for p in denoiser.parameters()]
    optimizers = [torch.optim.Adam(weights, lr=config.diffusion_lr)]
    joint = config.tables == "joint"
    if joint:
        optimizers.append(
            geoopt.optim.RiemannianSGD(
                tables,
                lr=config.encoder_lr,
                momentum=config.encoder_momentum,
                weight_decay=config.encoder_weight_decay,
            )
        )
    alpha_bar = torch.empty(config.steps, dtype=torch.float64, device=phantom.DEVICE)

    def step() -> None:
        with torch.set_grad_enabled(joint):
            h = authors.encode(tables, matrix, config.layers)
        loss = authors.diffusion_loss(
            h,
            graph.num_users,
            ids,
            denoisers,
            alpha_bar,
            margin=config.margin,
            reconstruction=config.reconstruction,
        )
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def _batch(graph: BipartiteGraph, size: int) -> list[Tensor]:
    """Users, items and unseen items as nodes."""
    generator = np.random.default_rng(0)
    bounds = [(0, graph.num_users), *[(graph.num_users, graph.num_nodes)] * 2]
    drawn = (generator.integers(*bound, size) for bound in bounds)
    return [torch.from_numpy(ids).to(phantom.DEVICE) for ids in drawn]


class _Matrix:
    """A COO matrix of fake tensors, which torch's sparse layouts do not take; no scratch is counted."""

    def __init__(self, entries: int) -> None:
        self.indices = torch.empty(2, entries, dtype=torch.int64, device=phantom.DEVICE)
        self.values = torch.empty(entries, device=phantom.DEVICE)

    def __matmul__(self, h: Tensor) -> Tensor:
        return _Product.apply(h)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor) -> Tensor:
        return torch.empty_like(h)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return torch.empty_like(grad)


if __name__ == "__main__":
    sys.exit(main())
