"""Every op of the package as a list of cases: one table that all op tests run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from cuda_on_cpu import backend as emulated_cuda
from torch import Tensor

from hdrm import ops
from hdrm.graph import BipartiteGraph

CURVATURES = (0.3, 1.0, 4.0)
WIDTHS = (2, 33, 64, 65, 512)
if not torch.cuda.is_available():
    emulated_cuda.load()
BACKENDS = [name for name, state in ops.available_backends().items() if state == "available"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _device() -> torch.device:
    """Where this test's tensors belong: see tests/conftest.py. Random numbers are the CPU's."""
    return torch.get_default_device()


def tangents(rows: int, width: int, dtype=torch.float64, radius: float = 1.5, seed: int = 0):
    """Tangent vectors at the origin whose lengths are spread over (0, radius)."""
    g = generator(seed)
    u = torch.randn(rows, width, generator=g, dtype=torch.float64, device="cpu").to(_device())
    u[:, 0] = 0
    length = radius * torch.rand(rows, 1, generator=g, dtype=torch.float64, device="cpu").to(
        _device()
    )
    return (u / u.norm(dim=1, keepdim=True).clamp(min=1e-9) * length).to(dtype)


def points(
    rows: int, width: int, c: float, dtype=torch.float64, radius: float = 1.5, seed: int = 0
):
    with ops.use_backend("reference"):
        return ops.expmap0(tangents(rows, width, torch.float64, radius / c**0.5, seed), c=c).to(
            dtype
        )


def vectors(rows: int, width: int, dtype=torch.float64, seed: int = 0):
    g = generator(seed)
    return torch.randn(rows, width, generator=g, dtype=torch.float64, device="cpu").to(
        _device(), dtype
    )


def small_graph(num_users: int = 5, num_items: int = 4, edges: int = 11) -> BipartiteGraph:
    """A graph with an isolated user and an isolated item."""
    g = generator(3)
    users, items = (
        torch.randint(count - 1, (edges,), generator=g, device="cpu")
        for count in (num_users, num_items)
    )
    return BipartiteGraph.from_interactions(users, items, num_users, num_items).to(_device())


@dataclass(frozen=True)
class Case:
    """One op: ``make`` returns its differentiable inputs, ``run`` calls the public function.

    Noise is float32 by contract, whatever the dtype of what it is added to; hence the tolerance.
    """

    name: str
    make: Callable[..., list[Tensor]]
    run: Callable[..., Tensor | tuple[Tensor, ...]]
    float64_tolerance: float = 1e-13

    def __str__(self) -> str:
        return self.name


def _points(*seeds: int):
    return lambda n, w, c, dtype: [points(n, w, c, dtype, seed=s) for s in seeds]


def _tangents(*seeds: int):
    return lambda n, w, c, dtype: [tangents(n, w, dtype, seed=s) for s in seeds]


def _base(*kinds: str):
    def make(n, w, c, dtype):
        return [
            points(n, w, c, dtype, seed=i)
            if kind == "x"
            else vectors(n, w, dtype, seed=i) * (2 / w**0.5)
            for i, kind in enumerate(kinds)
        ]

    return make


# By number of nodes and kind of device; built before a case runs.
GRAPHS: dict[tuple[int, str], BipartiteGraph] = {}


def _with_graph(make):
    def make_with_graph(n, w, c, dtype):
        GRAPHS.setdefault((n, _device().type), small_graph(num_users=n - 4))
        return make(n, w, c, dtype)

    return make_with_graph


def _propagate(**options):
    def run(x, *, c):
        return ops.propagate(x, GRAPHS[x.shape[0], x.device.type], 3, c=c, **options)

    return run


def _noise_inputs(n, device):
    return (
        torch.arange(n, device=device) % 4,
        torch.tensor([0.9, 0.7, 0.4, 0.1], dtype=torch.float64, device=device),
    )


def _noise(op, **options):
    def run(z, *, c):
        return op(z, *_noise_inputs(z.shape[0], z.device), seed=7, c=c, **options)

    return run


ROW_CASES = [
    Case("expmap0", _tangents(0), ops.expmap0),
    Case("logmap0", _points(0), ops.logmap0),
    Case("project", _points(0), ops.project),
    Case("project_tangent", _base("x", "v"), ops.project_tangent),
    Case("expmap", _base("x", "v"), ops.expmap),
    Case("logmap", _points(0, 1), ops.logmap),
    Case("transport", _base("x", "x", "v"), ops.transport),
    Case("egrad2rgrad", _base("x", "v"), ops.egrad2rgrad),
    Case("distance", _points(0, 1), ops.distance),
    Case("sqdist", _points(0, 1), ops.sqdist),
    Case("sqdist0", _tangents(0, 1), ops.sqdist0),
    Case(
        "margin_ranking_loss",
        _tangents(0, 1, 2),
        lambda u, p, n, *, c: ops.margin_ranking_loss(u, p, n, 0.3, c=c, reduction="sum"),
    ),
    Case("isotropic_noise", _tangents(0), _noise(ops.isotropic_noise, growth=0.1), 1e-6),
]
# Ops that look at more than one row at a time: they need rows to make sense.
TABLE_CASES = [
    Case("directional_noise", _tangents(0), _noise(ops.directional_noise, growth=0.1), 1e-6),
    Case("column_statistics", _tangents(0), lambda z, *, c: ops.column_statistics(z)),
    Case("propagate", _with_graph(_points(0)), _propagate()),
    Case(
        "propagate[lightgcn]",
        _with_graph(_tangents(0)),
        _propagate(space="tangent", normalization="symmetric", combine="mean"),
    ),
    Case("propagate[row-mean]", _with_graph(_points(0)), _propagate(combine="mean")),
]
CASES = ROW_CASES + TABLE_CASES


def poisoned(tensor: Tensor, contiguous: bool = True) -> Tensor:
    """The same values inside a larger buffer of NaN, so that reading beside them shows."""
    rows, width = tensor.shape
    gap = 0 if contiguous else 3
    buffer = torch.full(
        (rows + 2, width + gap), torch.nan, dtype=tensor.dtype, device=tensor.device
    )
    view = buffer[1 : rows + 1, :width]
    view.copy_(tensor)
    return view
