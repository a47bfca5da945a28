"""What a user writes, every result with the type it is expected to have: mypy reads it, nobody runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geoopt
import torch
from torch import Tensor

import hdrm
from hdrm import CSR, HDRM, BipartiteGraph, Lorentz, data, ops, optim
from hdrm.config import PRESETS, Config
from hdrm.train import Trainer, evaluate_split


def kernels(graph: BipartiteGraph) -> Tensor:
    x: Tensor = ops.expmap0(torch.randn(graph.num_nodes, 8), c=1.0).requires_grad_()
    near: Tensor
    ids: Tensor
    near, ids = ops.topk(x[: graph.num_users], x[graph.num_users :], k=10, exclude=graph.user_items)
    negatives: Tensor = ops.sample_negatives(torch.arange(3), graph.user_items, 2, seed=1)
    with hdrm.use_backend("reference"):
        h: Tensor = ops.propagate(x, graph, num_layers=3, combine="mean", work_dtype=torch.bfloat16)
    loss: Tensor = ops.margin_ranking_loss(h[:1], h[1:2], h[2:3], 0.1, reduction="sum")
    states: dict[str, str] = hdrm.available_backends()
    print(near, ids, negatives, states)
    return loss + ops.sqdist(x[:1], x[1:2]).mean()


def optimise(manifold: Lorentz) -> None:
    x = geoopt.ManifoldParameter(manifold.expmap0(torch.randn(10, 4)), manifold=manifold)
    distance: Tensor = manifold.dist(x, x.roll(1, 0), keepdim=True)
    distance.sum().backward()
    steps: list[torch.optim.Optimizer] = [
        optim.RiemannianAdam([x], lr=1e-2, betas=(0.9, 0.99)),
        optim.RiemannianSGD([x], lr=1e-2, momentum=0.9),
    ]
    for step in steps:
        step.step()


def serve(run: str | Path) -> tuple[Tensor, Tensor]:
    model: HDRM = HDRM.load(run, device="cpu")
    items: Tensor
    distances: Tensor
    items, distances = model.recommend([7, 8], k=10)
    points: Tensor = model.fold_in([[1, 5, 9], [3]])
    model.similar_items(torch.tensor([7]), k=3)
    module: torch.nn.Module = model.exportable(k=10)
    seen: CSR = model.graph.user_items
    rows: int = seen.num_rows
    config: Config = PRESETS["general"].replace(dim=32)
    print(points, module, rows, config.dim + 1, config.to_json().upper())
    return items, distances


def train(folder: Path) -> dict[str, dict[str, Any]]:
    dataset = data.load("demo")
    result = Trainer(dataset, Config(), folder, source="demo").fit()
    found: HDRM = result.model
    return {**evaluate_split(found, dataset, "test")}
