"""Maps at the origin and at base points: hdrm, its plain torch reference, and geoopt."""

from __future__ import annotations

import geoopt
import pytest
from harness import OURS, ROWS, WIDTH, reference, tangent_rows, with_backward

from hdrm import ops

GEOOPT = geoopt.Lorentz()
X, Y = (ops.expmap0(tangent_rows(ROWS, WIDTH, seed)) for seed in (0, 1))
V = ops.project_tangent(X, tangent_rows(ROWS, WIDTH, 2))
TABLE = X.numel() * 4
# name: inputs, hdrm, geoopt, tables read and written forward
MAPS = {
    "expmap0": ((tangent_rows(ROWS, WIDTH),), ops.expmap0, GEOOPT.expmap0, 2),
    "logmap0": ((X,), ops.logmap0, GEOOPT.logmap0, 2),
    "expmap": ((X, V), ops.expmap, GEOOPT.expmap, 3),
    "logmap": ((X, Y), ops.logmap, GEOOPT.logmap, 3),
    "transport": ((X, Y, V), ops.transport, GEOOPT.transp, 4),
}


@pytest.mark.parametrize("peer", [*OURS, "reference", "geoopt"])
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
def test_map(timed, name, peer, backward):
    inputs, ours, theirs, tables = MAPS[name]
    function = theirs if peer == "geoopt" else ours
    group = f"{name} {ROWS}x{WIDTH} {'forward+backward' if backward else 'forward'}"
    # backward reads the gradient and the inputs again and writes one gradient for each of these
    num_bytes = TABLE * (tables + 2 * len(inputs) + 1 if backward else tables)
    expected = None if backward else reference(ours, *inputs)
    run = with_backward(function, *inputs) if backward else lambda: function(*inputs)
    timed(group, peer, run, expected, num_bytes)
