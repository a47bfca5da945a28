"""The diffusion's forward step: hdrm's noise made in the kernel, and torch.randn as the authors have it."""

from __future__ import annotations

import torch
from harness import (
    OURS,
    SMALL,
    WIDTHS,
    Group,
    assert_close,
    normal,
    peer_rows,
    rows,
    scaled,
    tangent_rows,
    with_backward,
)
from peers import authors

from hdrm import ops

ROWS = scaled(20_000, floor=2_000)
STEPS = 50
MODES = ("forward", "forward+backward")
SIZES = (10, 1_000) if SMALL else (2, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
AS_AUTHORS = {"directional": authors.directional_noise, "isotropic": authors.isotropic_noise}
FULL = [(kind, mode, ROWS, width) for kind in AS_AUTHORS for width in WIDTHS for mode in MODES]


def guarded(case) -> bool:
    return case[0] == "directional" and case[3] == 64


@rows(FULL, [*OURS, "authors", "authors compiled"], guarded)
def test_noise(measured, case, peer):
    measured(build, case, peer)


@rows([("statistics", mode, ROWS, width) for width in WIDTHS for mode in MODES],
      [*OURS, "torch", "torch compiled"])  # fmt: skip
def test_statistics(measured, case, peer):
    measured(build_statistics, case, peer)


@rows([(k, m, n, 64) for k in AS_AUTHORS for n in SIZES for m in MODES], [*OURS, "authors"])
def test_sizes(measured, case, peer):
    measured(build, case, peer)


def build(case) -> Group:
    kind, mode, num_rows, width = case
    z0 = tangent_rows(num_rows, width)
    t = torch.arange(num_rows) % STEPS
    alpha_bar = torch.linspace(0.99, 0.5, STEPS, dtype=torch.float64)
    weights = normal(num_rows, width, seed=1)
    weights[:, 0] = 0
    ours = ops.directional_noise if kind == "directional" else ops.isotropic_noise
    backward = mode == "forward+backward"

    def time(function):
        leaf = z0.clone().requires_grad_(backward)

        def call():
            z_t = function(leaf, t, alpha_bar)
            return (z_t, *torch.autograd.grad(z_t, leaf, weights)) if backward else (z_t,)

        return call

    def check(result):
        _check(kind, z0, alpha_bar[t].float()[:, None], weights, *result)

    table = z0.numel() * 4
    reads = 3 if kind == "directional" else 2  # once more for the statistics
    return Group(
        f"{kind} noise", mode, f"{num_rows:,} × {width}",
        peer_rows(ours, {"authors": AS_AUTHORS[kind]}, time), check,
        table * (reads + (reads if backward else 0)) if num_rows * width >= 100_000 else None,
        info={"rows": num_rows, "width": width},
    )  # fmt: skip


def build_statistics(case) -> Group:
    _, mode, num_rows, width = case
    z0 = tangent_rows(num_rows, width)
    weights = normal(2, width, seed=1)
    backward = mode == "forward+backward"

    def ours(z0):
        return torch.stack(ops.column_statistics(z0))

    def by_torch(z0):
        return torch.stack([z0.mean(0), z0.std(0)])

    def time(function):
        return with_backward(function, z0, weights=weights) if backward else lambda: function(z0)

    def check(found):
        wanted = by_torch(z0.double())
        if backward:
            found, wanted = (
                found[0],
                with_backward(by_torch, z0.double(), weights=weights.double())()[0],
            )
        assert_close(found[:, 1:], wanted[:, 1:])  # the time column is 0, and so without spread

    passes = 4 if backward else 2  # the mean, then the deviations from it; gradients read and write
    return Group(
        "column statistics", mode, f"{num_rows:,} × {width}",
        peer_rows(ours, {"torch": by_torch}, time), check,
        passes * z0.numel() * 4, info={"rows": num_rows, "width": width},
    )  # fmt: skip


def _check(kind, z0, level, weights, z_t, gradient=None) -> None:
    """Whatever the numbers drawn: the noise is read off the result, must be distributed as it should,
    and the gradient must be that of the formula with this noise."""
    leaf = z0.double().requires_grad_()
    a, b = level.double().sqrt(), (1 - level.double()).sqrt()
    noise = (z_t.double() - a * z0.double()) / b
    if kind == "directional":
        mean, std = leaf.mean(0), leaf.std(0)
        drawn = ((noise - mean) / std.clamp(min=1e-30)).detach()
        drawn[:, 0] = 0
        size = drawn[:, 1:] * torch.sign(z0[:, 1:])
        assert size.min() > -1e-3, "wrong result: the noise does not keep the signs"
        wanted = torch.full_like(size[:1, :1], (2 / torch.pi) ** 0.5)
        again = a * leaf + b * (mean + std * drawn)
    else:
        drawn = noise.detach()
        size, wanted = drawn[:, 1:].abs(), drawn.new_full((1, 1), (2 / torch.pi) ** 0.5)
        again = a * leaf + b * drawn
    if size.numel() >= 10_000:
        assert_close(size.mean().view(1, 1), wanted, tolerance=3 / size.numel() ** 0.5 + 1e-4)
    if gradient is not None:
        expected = torch.autograd.grad(again, leaf, weights.double())[0]
        assert_close(gradient[:, 1:], expected[:, 1:])
