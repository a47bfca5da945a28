"""Row-wise distances: hdrm, geoopt and the formulas of HDRM's authors."""

from __future__ import annotations

import rowwise
from harness import OURS, rows

DISTANCES = ("distance", "sqdist", "sqdist0")


@rows(
    rowwise.full_size(DISTANCES),
    [*OURS, "geoopt", "geoopt compiled", "authors", "authors compiled"],
)
def test_distance(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(rowwise.touched(DISTANCES), OURS)
def test_touched(measured, case, peer):
    measured(rowwise.build, case, peer)


@rows(rowwise.all_sizes(DISTANCES), [*OURS, "geoopt", "authors"], rowwise.guarded)
def test_sizes(measured, case, peer):
    measured(rowwise.build, case, peer)
