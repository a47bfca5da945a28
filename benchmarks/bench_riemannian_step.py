"""One optimiser step on a table of points: hdrm's fused step, and geoopt's."""

from __future__ import annotations

import geoopt
import torch
from harness import OURS, SMALL, Group, assert_close, normal, rows, scaled, tangent_rows

import hdrm
from hdrm import ops

OPTIONS = {
    "RiemannianSGD": {"lr": 1e-3, "momentum": 0.95, "weight_decay": 0.005},
    "RiemannianAdam": {"lr": 1e-3},
}
TABLES = [(scaled(100_000), 64), (scaled(12_500), 512)]
SIZES = (1, 100) if SMALL else (1, 10, 100, 1_000, 10_000, 1_000_000)
# Tables read and written: parameter and moments both, the gradient once.
TRAFFIC = {"RiemannianSGD": 5, "RiemannianAdam": 7}
CASES = [(name, *table) for name in OPTIONS for table in TABLES]


@rows(CASES, [*OURS, "geoopt"], lambda case: case[2] == 64)
def test_step(measured, case, peer):
    measured(build, case, peer)


@rows([(name, n, 64) for name in OPTIONS for n in SIZES], [*OURS, "geoopt"])
def test_sizes(measured, case, peer):
    measured(build, case, peer)


def build(case) -> Group:
    name, num_rows, width = case
    points = ops.expmap0(tangent_rows(num_rows, width))
    gradient = normal(num_rows, width, seed=3) * 1e-3
    gradient[:, 0] = 0  # what is differentiated with respect to the spatial part

    def stepper(package, manifold, dtype=torch.float32):
        parameter = geoopt.ManifoldParameter(points.to(dtype, copy=True), manifold=manifold)
        optimiser = getattr(package, name)([parameter], **OPTIONS[name])
        parameter.grad = gradient.to(dtype, copy=True)

        def call():
            optimiser.step()
            return parameter.detach()

        return call

    expected = stepper(geoopt.optim, geoopt.Lorentz(torch.ones((), dtype=torch.float64)),
                       torch.float64)() - points.double()  # fmt: skip

    def check(found):  # of the first step, so only then the state is the same
        assert_close((found - points)[:, 1:], expected[:, 1:], tolerance=1e-2)

    makers = {peer: lambda: stepper(hdrm.optim, hdrm.Lorentz()) for peer in OURS}
    makers["geoopt"] = lambda: stepper(geoopt.optim, geoopt.Lorentz())
    num_bytes = TRAFFIC[name] * points.numel() * 4
    return Group(
        name, "step", f"{num_rows:,} × {width}", makers, check,
        num_bytes if num_rows * width >= 100_000 else None,
        info={"rows": num_rows, "width": width},
    )  # fmt: skip
