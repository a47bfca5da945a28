"""Who is measured: the ops of this package, geoopt, and the formulas of HDRM's authors.

Each is a function (op, rows, c) → result on rows whose time coordinate is right for their dtype;
:func:`evaluate` adds the gradient with respect to the spatial part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor

from .. import ops
from .pairs import Batch

TANGENT_AT_ORIGIN = {"expmap0", "sqdist0"}
POINTS = {"expmap": 1, "logmap": 2, "transport": 2}  # how many of the arguments are points


def minkowski(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True) - 2 * x[..., :1] * y[..., :1]


def tangent(x: Tensor, v: Tensor) -> Tensor:
    time = (x[..., 1:] * v[..., 1:]).sum(-1, keepdim=True) / x[..., :1]
    return torch.cat([time, v[..., 1:]], -1)


class Authors:
    """The formulas of HDRM's (and HGCN's) hyperboloid, with its clamps."""

    @staticmethod
    def project(x: Tensor, c: float) -> Tensor:
        time = (1 / c + x[..., 1:].square().sum(-1, keepdim=True)).sqrt()
        return torch.cat([time, x[..., 1:]], -1)

    @staticmethod
    def expmap0(u: Tensor, c: float) -> Tensor:
        norm = u[..., 1:].norm(dim=-1, keepdim=True).clamp(min=1e-15)
        spatial = (norm * c**0.5).clamp(max=15).sinh() / c**0.5 * u[..., 1:] / norm
        return Authors.project(torch.cat([u[..., :1], spatial], -1), c)

    @staticmethod
    def logmap0(x: Tensor, c: float) -> Tensor:
        norm = x[..., 1:].norm(dim=-1, keepdim=True).clamp(min=1e-15)
        length = (x[..., :1] * c**0.5).clamp(min=1 + 1e-7).acosh() / c**0.5
        return torch.cat([torch.zeros_like(length), length * x[..., 1:] / norm], -1)

    @staticmethod
    def sqdist(x: Tensor, y: Tensor, c: float) -> Tensor:
        arc = (-minkowski(x, y) * c).clamp(min=1 + 1e-7).acosh()
        return (arc.square() / c).clamp(max=50).squeeze(-1)

    @staticmethod
    def distance(x: Tensor, y: Tensor, c: float) -> Tensor:
        return Authors.sqdist(x, y, c).sqrt()

    @staticmethod
    def expmap(x: Tensor, v: Tensor, c: float) -> Tensor:
        v = tangent(x, v)
        norm = minkowski(v, v).clamp(min=1e-7).sqrt()
        theta = (norm * c**0.5).clamp(min=1e-15, max=15)
        return Authors.project(theta.cosh() * x + theta.sinh() * v / theta, c)

    @staticmethod
    def logmap(x: Tensor, y: Tensor, c: float) -> Tensor:
        xy = (minkowski(x, y) + 1 / c).clamp(max=-1e-7) - 1 / c
        direction = y + xy * x * c
        norm = minkowski(direction, direction).clamp(min=1e-7).sqrt()
        return tangent(x, Authors.sqdist(x, y, c).sqrt()[..., None] * direction / norm)

    @staticmethod
    def transport(x: Tensor, y: Tensor, v: Tensor, c: float) -> Tensor:
        there, back = Authors.logmap(x, y, c), Authors.logmap(y, x, c)
        v = tangent(x, v)
        share = minkowski(there, v) / Authors.sqdist(x, y, c)[..., None]
        return tangent(y, v - share * (there + back))


def run_authors(op: str, rows: list[Tensor], c: float) -> Tensor:
    if op == "sqdist0":
        return Authors.sqdist(*(Authors.expmap0(u, c) for u in rows), c)
    return getattr(Authors, op)(*rows, c)


def run_geoopt(op: str, rows: list[Tensor], c: float) -> Tensor:
    manifold = geoopt.Lorentz(torch.tensor(1 / c, dtype=rows[0].dtype))
    if op == "sqdist0":
        return manifold.dist(*(manifold.expmap0(u) for u in rows)).square()
    if op == "sqdist":
        return manifold.dist(*rows).square()
    if op in ("expmap", "transport"):
        rows = [*rows[:-1], tangent(rows[0], rows[-1])]
    names = {"distance": "dist", "project": "projx", "transport": "transp"}
    return getattr(manifold, names.get(op, op))(*rows)


def run_hdrm(backend: str) -> Callable[[str, list[Tensor], float], Tensor]:
    def run(op: str, rows: list[Tensor], c: float) -> Tensor:
        with ops.use_backend(backend):
            return getattr(ops, op)(*rows, c=c)

    return run


@dataclass(frozen=True)
class Competitor:
    name: str
    run: Callable[[str, list[Tensor], float], Tensor]
    dtype: torch.dtype = torch.float32


def competitors() -> list[Competitor]:
    ours = [
        Competitor(f"hdrm {name} f32", run_hdrm(name))
        for name, state in ops.available_backends().items()
        if state == "available" and name in ("cpu", "reference")
    ]
    return [
        *reversed(ours),  # the compiled kernels first
        Competitor("geoopt f32", run_geoopt),
        Competitor("geoopt f64", run_geoopt, torch.float64),
        Competitor("authors f32", run_authors),
    ]


def with_time(spatial: Tensor, c: float, point: bool) -> Tensor:
    """A full row whose time coordinate depends on the spatial part, as autograd sees it."""
    squared = spatial.square().sum(-1, keepdim=True)
    return torch.cat([(1 / c + squared).sqrt() if point else 0 * squared, spatial], -1)


def evaluate(
    who: Competitor, batch: Batch, upstream: list[Tensor]
) -> tuple[Tensor, list[list[Tensor]]]:
    """The op's results, and their gradients by the spatial part of each argument.

    upstream: gradients of a result, each shaped like the op's, from which backward starts. For
    each of them a list of one gradient (n, d) per argument.
    """
    leaves = [rows[:, 1:].to(who.dtype).requires_grad_() for rows in batch.rows]
    points = POINTS.get(batch.op, 0 if batch.op in TANGENT_AT_ORIGIN else 2)
    rows = [with_time(leaf, batch.c, point=k < points) for k, leaf in enumerate(leaves)]
    found = who.run(batch.op, rows, batch.c)
    gradients = [
        list(torch.autograd.grad(found, leaves, weights.view(found.shape).to(who.dtype),
                                 retain_graph=True))
        for weights in upstream
    ]  # fmt: skip
    return found.detach(), gradients
