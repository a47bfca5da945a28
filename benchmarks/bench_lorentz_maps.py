"""Maps at the origin and at base points: hdrm, geoopt and the formulas of HDRM's authors."""

from __future__ import annotations

import rowwise
from harness import OURS, rows

MAPS = [op for op in rowwise.ARGUMENTS if "dist" not in op]


@rows(
    [c for c in rowwise.full_size(MAPS) if c[0] in rowwise.AS_AUTHORS],
    [*OURS, "geoopt", "geoopt compiled", "authors", "authors compiled"],
)
def test_map(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(
    [c for c in rowwise.full_size(MAPS) if c[0] not in rowwise.AS_AUTHORS],
    [*OURS, "geoopt", "geoopt compiled"],
)
def test_map_of_geoopt(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(rowwise.touched(MAPS), OURS)
def test_touched(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(
    [c for c in rowwise.all_sizes(MAPS) if c[0] in rowwise.AS_AUTHORS],
    [*OURS, "geoopt", "authors"],
    rowwise.guarded,
)
def test_sizes(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(
    [c for c in rowwise.all_sizes(MAPS) if c[0] not in rowwise.AS_AUTHORS],
    [*OURS, "geoopt"],
)
def test_sizes_of_geoopt(measured, case, peer):
    measured(rowwise.build, case, peer)
