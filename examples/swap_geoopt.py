"""One training with geoopt's Lorentz manifold and with hdrm's: a class is exchanged, nothing else.

Both place the nodes of a graph by the same loss. Then the distances between neighbours on the
manifold are compared with float64: this is where float32 formulas lose their digits.
"""

from __future__ import annotations

import geoopt
import torch
import torch.nn.functional as F

from hdrm import Lorentz, ops, optim

NODES, DIM, STEPS = 300, 9, 60  # 9 coordinates: the space has 8 dimensions


def train(manifold: geoopt.Lorentz, optimizer_class) -> tuple[torch.Tensor, float]:
    """Points (NODES, DIM) and the loss they end with."""
    torch.manual_seed(0)
    start = manifold.expmap0(F.pad(0.1 * torch.randn(NODES, DIM - 1), (1, 0)))
    points = geoopt.ManifoldParameter(start, manifold=manifold)
    a, b = torch.randint(NODES, (2, 2_000))
    wanted = 0.5 + torch.rand(2_000)  # lengths of the edges
    optimizer = optimizer_class([points], lr=0.02)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (manifold.dist(points[a], points[b]) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    return points.detach(), loss.item()


def worst_error(manifold: geoopt.Lorentz, x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest relative error of the distances in float32."""
    exact = ops.distance(x.double(), y.double())
    return ((manifold.dist(x, y) - exact).abs() / exact).max().item()


def main() -> dict[str, tuple[float, float]]:
    found = {}
    for name, manifold, optimizer in (
        ("geoopt", geoopt.Lorentz(), geoopt.optim.RiemannianAdam),
        ("hdrm", Lorentz(), optim.RiemannianAdam),
    ):
        x, loss = train(manifold, optimizer)
        near = ops.expmap(x, ops.project_tangent(x, 1e-4 * torch.randn_like(x)))
        found[name] = loss, worst_error(manifold, x, near)
        print(f"{name:7} loss {loss:.4f}, error of distances of about 3e-4: {found[name][1]:.1e}")
    return found


if __name__ == "__main__":
    main()
