"""Relative errors of results and gradients against the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import oracle
from .pairs import Batch
from .peers import Competitor, evaluate

POINT_RESULTS = {"expmap0", "project", "expmap"}
DRAWS = 16  # gradients of a map's result from which its backward starts
TINY = 1e-40  # far below every result on the inputs of pairs.py, far above an oracle zero


@dataclass
class Exact:
    """The oracle's results, and its gradients or Jacobians, rounded to float64."""

    values: Tensor
    gradients: list[Tensor]


def exact(batch: Batch) -> Exact:
    values, gradients = [], []
    by_hand = getattr(oracle, f"{batch.op}_gradient", None)
    function = getattr(oracle, batch.op)
    for tensors in zip(*batch.rows):
        rows = [oracle.row(tensor) for tensor in tensors]
        value = function(*rows, batch.c)
        value = value if isinstance(value, list) else [value]
        values.append([float(v) for v in value])
        if by_hand:
            found = [[[slope] for slope in slopes] for slopes in by_hand(*rows, batch.c)]
        else:
            found = oracle.jacobian(function, rows, batch.c)
        gradients.append([[list(map(float, slopes)) for slopes in part] for part in found])
    return Exact(
        torch.tensor(values, dtype=torch.float64),
        [torch.tensor(rows, dtype=torch.float64) for rows in zip(*gradients)],
    )


def relative(found: Tensor, expected: Tensor, at_least: Tensor | None = None) -> Tensor:
    """‖found − expected‖/‖expected‖ of each row, absolute where that is 0, ∞ where it is NaN.

    at_least: a size for each row that the error is compared with where the result is smaller.
    """
    found, expected = found.double().flatten(1), expected.flatten(1)
    expected = torch.where(expected.abs() > TINY, expected, torch.zeros_like(expected))
    error, size = (found - expected).norm(dim=1), expected.norm(dim=1)
    size = size if at_least is None else torch.maximum(size, at_least)
    return torch.where(size > TINY, error / size, error).nan_to_num(torch.inf, torch.inf)


def upstream(truth: Exact) -> list[Tensor]:
    """What backward starts from: 1 for a number; for a row random weights of every coordinate."""
    if truth.values.shape[1] == 1:
        return [torch.ones_like(truth.values, dtype=torch.float32)]
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(DRAWS, *truth.values.shape, generator=generator))


def errors(who: Competitor, batch: Batch, truth: Exact) -> tuple[Tensor, Tensor]:
    """The relative errors of values and of gradients, (n,) each.

    A gradient is what backward returns, a vector times a Jacobian, and is compared with its own
    length, however much of it cancels; the worst of all arguments and draws of the vector counts.

    Of a point, whose time coordinate is never small, the worse of time and spatial part counts.
    expmap adds a row to its base point, and near the origin is judged by the size of that.
    """
    weights = upstream(truth)
    found, gradients = evaluate(who, batch, weights)
    expected = truth.values
    if found.dim() == 1:
        value = relative(found[:, None], expected)
    elif batch.op in POINT_RESULTS:
        base = batch.rows[0][:, 1:].double().norm(dim=1) if batch.op == "expmap" else None
        value = torch.maximum(
            relative(found[:, :1], expected[:, :1]),
            relative(found[:, 1:], expected[:, 1:], at_least=base),
        )
    else:
        value = relative(found, expected)
    worst = [
        relative(gradient, torch.einsum("ndm,nm->nd", jacobian, w.double()))
        for w, found_by_argument in zip(weights, gradients)
        for gradient, jacobian in zip(found_by_argument, truth.gradients)
    ]
    return value, torch.stack(worst).amax(0)
