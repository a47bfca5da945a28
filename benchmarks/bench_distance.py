"""Row-wise squared distance: hdrm, its plain torch reference, and geoopt."""

from __future__ import annotations

import geoopt
import pytest
from harness import OURS, ROWS, WIDTH, reference, tangent_rows, with_backward

from hdrm import ops

GEOOPT = geoopt.Lorentz()
X, Y = (ops.expmap0(tangent_rows(ROWS, WIDTH, seed)) for seed in (0, 1))


@pytest.mark.parametrize("peer", [*OURS, "reference", "geoopt"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_sqdist(timed, peer, backward):
    function = (lambda x, y: GEOOPT.dist(x, y) ** 2) if peer == "geoopt" else ops.sqdist
    group = f"sqdist {ROWS}x{WIDTH} {'forward+backward' if backward else 'forward'}"
    run = with_backward(function, X, Y) if backward else lambda: function(X, Y)
    expected = None if backward else reference(ops.sqdist, X, Y)
    timed(group, peer, run, expected, X.numel() * 4 * (6 if backward else 2))
