"""One optimiser step on a table of points: hdrm's fused step, and geoopt's."""

from __future__ import annotations

import geoopt
import pytest
from harness import OURS, WIDTH, normal, tangent_rows

import hdrm
from hdrm import ops

ROWS = 70_000  # Gowalla's users and items
MAKE = {
    "RiemannianSGD": lambda module, p: module.RiemannianSGD([p], lr=1e-3, momentum=0.95, weight_decay=0.005),
    "RiemannianAdam": lambda module, p: module.RiemannianAdam([p], lr=1e-3),
}


@pytest.mark.parametrize("peer", [*OURS, "geoopt"])
@pytest.mark.parametrize("name", MAKE)
def test_step(timed, name, peer):
    ours = peer in OURS
    manifold = hdrm.Lorentz() if ours else geoopt.Lorentz()
    points = ops.expmap0(tangent_rows(ROWS, WIDTH))
    parameter = geoopt.ManifoldParameter(points, manifold=manifold)
    optimiser = MAKE[name](hdrm.optim if ours else geoopt.optim, parameter)
    gradient = normal(ROWS, WIDTH, seed=3) * 1e-3

    def run():
        parameter.grad = gradient.clone()
        optimiser.step()
        return parameter.detach()

    timed(f"{name} step {ROWS}x{WIDTH}", peer, run, None, 5 * points.numel() * 4)
