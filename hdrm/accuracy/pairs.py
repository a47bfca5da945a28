"""Hard inputs for the ops: every size and separation at which float32 can go wrong.

All rows are float32 and are taken as exact by everything that is measured, the oracle included.
Radii ρ are distances to the origin over r = 1/√c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

RADII = (1e-6, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 3.0, 5.9, 8.9, 15.0, 30.0, 42.9)
GAPS = (0.0, 1e-7, 1e-6, 1e-4, 1e-2, 0.5)  # of the radii, relative
ANGLES = (0.0, 1e-7, 1e-5, 1e-3, 1e-2, 0.1, 1.0, 2.0, math.pi)
LARGEST = 42.9  # in float32, less ½·ln K where K > 1


@dataclass
class Batch:
    """Inputs of one op at one curvature: ``rows`` are its arguments, (n, d+1) each.

    ``ranges`` names the row of the report that an input belongs to.
    """

    op: str
    c: float
    rows: list[Tensor]
    ranges: list[str]


# The largest relative error allowed to float32 (None: the result is finite) in values, gradients.
DISTANCE_RANGES = {
    "x = y": (0.0, 0.0),
    "one at the origin": (1e-6, 1e-5),
    "rho <= 1e-2": (1e-6, 1e-5),
    "rho <= 1": (1e-6, 1e-5),
    "rho <= 9": (1e-6, 1e-5),
    "one ray, rho <= 6": (1e-6, 1e-5),
    "one ray, rho <= 9": (5e-5, 1e-5),
    "opposite": (1e-6, 1e-5),
    "radii > 100 : 1": (3e-6, 1e-5),
    "rho <= 43": (None, None),
}
ORIGIN_RANGES = {
    "the origin": (1e-6, 1e-5),
    "rho <= 1e-2": (1e-6, 1e-5),
    "rho <= 1": (1e-6, 1e-5),
    "rho <= 9": (1e-6, 1e-5),
    "rho <= 43": (None, None),
}
BASE_RANGES = {  # size: the larger |xs|/r of the base points
    "size <= 1, step < 1e-2": (1e-6, 1e-6),
    "size <= 1": (1e-6, 1e-6),
    "size <= 100, step < 1e-2": (1e-6, 1e-6),
    "size <= 100": (1e-6, 1e-6),
    "further out": (1e-5, 1e-5),
}
SQUARED_RANGES = {  # squaring doubles a relative error
    name: (value and 2 * value, gradient) for name, (value, gradient) in DISTANCE_RANGES.items()
}
RANGES = {
    "distance": DISTANCE_RANGES,
    **dict.fromkeys(("sqdist", "sqdist0"), SQUARED_RANGES),
    **dict.fromkeys(("expmap0", "logmap0", "project"), ORIGIN_RANGES),
    **dict.fromkeys(("expmap", "logmap", "transport"), BASE_RANGES),
}


def largest_radius(c: float) -> float:
    return LARGEST - max(0.0, -0.5 * math.log(c))


def range_of_pair(radius: float, other: float, angle: float) -> str:
    smaller, larger = sorted((radius, other))
    if larger > 9.0:
        return "rho <= 43"
    if radius == other and angle == 0:
        return "x = y"
    if smaller == 0:
        return "one at the origin"
    if larger > 100 * smaller:
        return "radii > 100 : 1"
    if angle == math.pi:
        return "opposite"
    if angle <= 1e-7:
        return "one ray, rho <= 6" if larger <= 6 else "one ray, rho <= 9"
    return range_of_radius(larger)


def range_of_radius(radius: float) -> str:
    if radius == 0:
        return "the origin"
    for name, largest in (("rho <= 1e-2", 1e-2), ("rho <= 1", 1.0), ("rho <= 9", 9.0)):
        if radius <= largest:
            return name
    return "rho <= 43"


def range_of_step(size: float, step: float) -> str:
    """step: the distance over r between the points, or the length of the vector."""
    if size > 100:
        return "further out"
    return f"size <= {1 if size <= 1 else 100}" + (", step < 1e-2" if step < 1e-2 else "")


def planes(rows: int, width: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two orthonormal directions per row; the first row's are two axes, exact in any dtype."""
    first, second = torch.randn(2, rows, width - 1, generator=generator, dtype=torch.float64)
    first[0], second[0] = 0, 0
    first[0, 0] = second[0, 1] = 1
    first /= first.norm(dim=1, keepdim=True)
    second -= (second * first).sum(1, keepdim=True) * first
    return first, second / second.norm(dim=1, keepdim=True)


def as_rows(spatial: Tensor) -> Tensor:
    return torch.nn.functional.pad(spatial, (1, 0)).float()


def combinations(c: float, quick: bool) -> list[tuple[float, float, float]]:
    """(ρx, ρy, angle) of the pairs."""
    found, end = [], largest_radius(c)
    radii = [min(radius, end) for radius in RADII]
    for radius in radii[:: 2 if quick else 1]:
        for angle in ANGLES:
            found += [(radius, min(radius * (1 + gap), end), angle) for gap in GAPS]
    for radius in radii:
        for small in (0.0, 1e-6, 1e-3):
            if small < radius / 100:
                found += [(small, radius, angle) for angle in (0.0, 1.0, math.pi)]
                found += [(radius, small, 1.0)]
    return found


def distance_pairs(op: str, c: float, width: int, seed: int, quick: bool = False) -> Batch:
    """Pairs of points (``distance``, ``sqdist``) or of tangent vectors at the origin."""
    generator = torch.Generator().manual_seed(seed)
    chosen = combinations(c, quick)
    first, second = planes(len(chosen), width, generator)
    radii = torch.tensor(chosen, dtype=torch.float64)
    lengths = radii[:, :2] if op == "sqdist0" else radii[:, :2].sinh()
    # On the ray of x exactly, as far as float32 can tell: y is not computed through cos and sin.
    angle = radii[:, 2:]
    turned = torch.where(angle == 0, first, first * angle.cos() + second * angle.sin())
    turned = torch.where(angle == math.pi, -first, turned)
    rows = [as_rows(first * lengths[:, :1] / c**0.5), as_rows(turned * lengths[:, 1:] / c**0.5)]
    ranges = [range_of_pair(*values) for values in chosen]
    return Batch(op, c, rows, ranges)


def origin_rows(op: str, c: float, width: int, seed: int, quick: bool = False) -> Batch:
    """Rows for the maps at the origin: tangent vectors or points of every radius."""
    generator = torch.Generator().manual_seed(seed)
    radii = [0.0, *(min(radius, largest_radius(c)) for radius in RADII), 0.03, 0.3, 0.99, 1.01]
    radii = radii * (1 if quick else 4)
    first, _ = planes(len(radii), width, generator)
    lengths = torch.tensor(radii, dtype=torch.float64)[:, None] / c**0.5
    if op != "expmap0":
        lengths = (lengths * c**0.5).sinh() / c**0.5
    return Batch(op, c, [as_rows(first * lengths)], [range_of_radius(r) for r in radii])


def base_rows(op: str, c: float, width: int, seed: int, quick: bool = False) -> Batch:
    """Base points with |xs|/r from 1e-6 to 1e15 and steps from them of lengths 1e-6r … 3r."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (1e-6, 1e-2, 0.9, 3.0, 30.0, 99.0, 1e6, 1e15)[:: 2 if quick else 1]
    if op == "expmap":  # at 1e15 the rounding of v to float32 alone is a step out of the range
        sizes = sizes[:-1]
    steps = (1e-6, 1e-4, 1e-3, 0.1, 1.0, 3.0)
    angles = (0.0, 1e-3, 1.0, math.pi / 2, math.pi)  # between the step and xs
    chosen = torch.tensor(
        [(z, d, a) for z in sizes for d in steps for a in angles], dtype=torch.float64
    )
    first, second = planes(len(chosen), width, generator)
    z, d, angle = (column[:, None] for column in chosen.T)
    x = first * z
    # A unit tangent vector at x: along the ray it is stretched by x0/r.
    v = (first * angle.cos() * (1 + z * z).sqrt() + second * angle.sin()) * d
    y = x * d.cosh() + v * (d.sinh() / d)
    w = torch.randn(v.shape, generator=generator, dtype=torch.float64)
    arguments = {"expmap": [x, v], "logmap": [x, y], "transport": [x, y, w]}[op]
    largest = z if op == "expmap" else torch.maximum(z, y.norm(dim=1, keepdim=True))
    ranges = [
        range_of_step(size, step) for size, step in zip(largest[:, 0].tolist(), d[:, 0].tolist())
    ]
    return Batch(op, c, [as_rows(value / c**0.5) for value in arguments], ranges)


MAKERS = {
    **dict.fromkeys(("distance", "sqdist", "sqdist0"), distance_pairs),
    **dict.fromkeys(("expmap0", "logmap0", "project"), origin_rows),
    **dict.fromkeys(("expmap", "logmap", "transport"), base_rows),
}


def batches(op: str, seed: int = 0, quick: bool = False) -> Iterator[Batch]:
    """The op's inputs over curvatures and widths."""
    shapes = [(1.0, 16), (1e-3, 3), (1e3, 9), (1.0, 3), (1e-3, 64), (1e3, 64)]
    if MAKERS[op] is base_rows:
        shapes = [(1.0, 9), (1e-3, 3), (1e3, 5)]  # the oracle's Jacobians grow with width²
    for k, (c, width) in enumerate(shapes[: 3 if quick else None]):
        yield MAKERS[op](op, c, width, seed + k, quick)


CURVE_ROWS = 24  # pairs for each place of a picture's curve


def separation_curve() -> tuple[list[float], Batch]:
    """Pairs from d = 1e-7 r to 10 r apart, one of each at ρ = 1, in all directions."""
    places = [10 ** (k / 4) for k in range(-28, 5)]
    return places, curve(places, [1.0] * len(places), places)


def radius_curve() -> tuple[list[float], Batch]:
    """Pairs a tenth of a radius apart, but not further than 0.1 r; from ρ = 1e-6 to 43."""
    places = [10 ** (k / 4) for k in range(-24, 7)] + [42.8]
    return places, curve(places, places, [0.1 * min(place, 1.0) for place in places])


def curve(places: list[float], radii: list[float], separations: list[float]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = len(places) * CURVE_ROWS
    first, second = planes(rows, 16, generator)
    angle = math.pi * torch.rand(rows, 1, generator=generator, dtype=torch.float64)
    rho, d = (
        torch.tensor(values, dtype=torch.float64).repeat_interleave(CURVE_ROWS)[:, None]
        for values in (radii, separations)
    )
    v = first * angle.cos() * rho.cosh() + second * angle.sin()  # a unit tangent vector at x
    x = first * rho.sinh()
    return Batch("sqdist", 1.0, [as_rows(x), as_rows(x * d.cosh() + v * d.sinh())], [])
