"""The oracle against itself: formulas differentiated by hand, and difference quotients."""

from __future__ import annotations

import pytest
import torch

from hdrm.accuracy import oracle
from hdrm.accuracy.pairs import as_rows, distance_pairs


@pytest.mark.parametrize("op", ["distance", "sqdist", "sqdist0"])
@pytest.mark.parametrize("c", [1e-3, 1.0, 1e3])
def test_gradients_by_hand_are_difference_quotients(op, c):
    batch = distance_pairs(op, c, 4, seed=1, quick=True)
    function = getattr(oracle, op)
    for k in range(0, len(batch.ranges), 23):
        rows = [oracle.row(part[k]) for part in batch.rows]
        if rows[0] == rows[1]:  # d has no derivative there
            continue
        by_hand = getattr(oracle, f"{op}_gradient")(*rows, c)
        quotients = oracle.jacobian(lambda *args: [function(*args)], rows, c)
        for found, expected in zip(by_hand, quotients):
            assert oracle.relative_error(found, [slope for (slope,) in expected]) < 1e-30


def test_maps_invert_each_other():
    x, y, v = (oracle.row(row) for row in as_rows(torch.randn(3, 5, dtype=torch.float64)))
    for c in (1e-3, 1.0, 1e3):
        there = oracle.expmap(x, v, c)[1:]
        assert oracle.relative_error(oracle.logmap(x, there, c)[1:], v) < 1e-60
        assert oracle.relative_error(oracle.logmap0(oracle.expmap0(v, c)[1:], c)[1:], v) < 1e-60
        back = oracle.transport(y, x, oracle.transport(x, y, v, c)[1:], c)
        assert oracle.relative_error(back[1:], v) < 1e-60
        moved, other = oracle.transport(x, y, v, c), oracle.tangent(x, v, c)
        assert abs(oracle.minkowski(moved, moved) / oracle.minkowski(other, other) - 1) < 1e-60


def test_leaves_the_precision_of_others_alone():
    import mpmath

    assert mpmath.mp.dps == 15 and oracle.mp.dps == 150
