"""Groups of the operations that take rows to rows: the maps and the distances.

The formulas of HDRM's authors are those that the accuracy report measures too
(:class:`hdrm.accuracy.peers.Authors`); they leave out what the released code does for nothing, masks
and copies, so its own times are longer.
"""

from __future__ import annotations

from collections.abc import Callable

import geoopt
import torch
from harness import (
    SMALL,
    WIDTHS,
    Group,
    assert_close,
    normal,
    peer_rows,
    reference,
    scaled,
    tangent_rows,
    with_backward,
)
from torch import Tensor

from hdrm import ops
from hdrm.accuracy.peers import Authors, tangent, with_time

GEOOPT = geoopt.Lorentz()
MODES = ("forward", "forward+backward")
KEPT = ", outputs touched"  # of a mode: no page is written for the first time
TABLE = 200_000 * 64  # numbers in a table of the groups at full size, whatever its width
SIZES = (1, 10, 100, 1_000, 10_000) if SMALL else (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
CHECKED = 1_000  # rows of either end that are compared with the reference

# op: what its arguments are. A tangent vector belongs to the first point.
ARGUMENTS = {
    "expmap0": ("origin",),
    "logmap0": ("point",),
    "project": ("origin",),
    "project_tangent": ("point", "tangent"),
    "expmap": ("point", "tangent"),
    "logmap": ("point", "point"),
    "transport": ("point", "point", "tangent"),
    "egrad2rgrad": ("point", "ambient"),
    "distance": ("point", "point"),
    "sqdist": ("point", "point"),
    "sqdist0": ("origin", "origin"),
}
AS_GEOOPT: dict[str, Callable] = {
    "expmap0": GEOOPT.expmap0,
    "logmap0": GEOOPT.logmap0,
    "project": GEOOPT.projx,
    "project_tangent": GEOOPT.proju,
    "expmap": GEOOPT.expmap,
    "logmap": GEOOPT.logmap,
    "transport": GEOOPT.transp,
    # It changes its argument, so that a second call would compute something else.
    "egrad2rgrad": lambda x, g: GEOOPT.egrad2rgrad(x, g.clone()),
    "distance": GEOOPT.dist,
    "sqdist": lambda x, y: GEOOPT.dist(x, y) ** 2,
    "sqdist0": lambda u, v: GEOOPT.dist(GEOOPT.expmap0(u), GEOOPT.expmap0(v)) ** 2,
}


def _authors(op: str) -> Callable | None:
    if op == "sqdist0":
        return lambda u, v: Authors.sqdist(Authors.expmap0(u, 1.0), Authors.expmap0(v, 1.0), 1.0)
    if op == "project_tangent":
        return tangent
    formula = getattr(Authors, op, None)
    return formula and (lambda *rows: formula(*rows, 1.0))


AS_AUTHORS = {op: function for op in ARGUMENTS if (function := _authors(op))}


def peers(op: str) -> dict[str, Callable]:
    found = {"geoopt": AS_GEOOPT[op]}
    return found | ({"authors": AS_AUTHORS[op]} if op in AS_AUTHORS else {})


def full_size(names) -> list[tuple]:
    """The cases (op, mode, rows, width) of the tables that fill the memory's bandwidth; both passes at
    64 columns also with memory that is kept, which leaves out what the system's pages cost."""
    return [
        (op, mode, scaled(TABLE // width), width)
        for op in names
        for width in WIDTHS
        for mode in (*MODES, *([MODES[1] + KEPT] if width == 64 else []))
    ]


def touched(names) -> list[tuple]:
    """The cases of the roofline."""
    return [
        (op, MODES[0] + KEPT, scaled(TABLE // width), width) for op in names for width in WIDTHS
    ]


def all_sizes(names) -> list[tuple]:
    """The cases that show what a call costs, and that no size is slower than the eager formula."""
    return [(op, mode, n, 64) for op in names for n in SIZES for mode in MODES]


def guarded(case: tuple) -> bool:
    """The regression guard's cases: what the model uses most, small enough to reuse its memory."""
    op, _, num_rows, _ = case
    return num_rows == 10_000 and op in ("expmap0", "logmap0", "sqdist")


def build(case: tuple) -> Group:
    """The group of one operation; a case is (op, mode, rows, width)."""
    op, mode, num_rows, width = case
    inputs = _inputs(op, num_rows, width)
    ours = getattr(ops, op)
    num_bytes = sum(tensor.numel() for tensor in inputs) * 4
    out_bytes = num_rows * 4 * (1 if op in ("distance", "sqdist", "sqdist0") else width)
    if mode.startswith("forward+backward"):
        weights = normal(*ours(*inputs).shape, seed=1)
        # The backward reads gradient and inputs and writes a gradient for each of these.
        num_bytes = 3 * num_bytes + 2 * out_bytes

        def time(function):
            call = with_backward(function, *inputs, weights=_fitting(function, inputs, weights))
            return lambda: (call(), None)[0]

        def check(gradients):
            _check_gradients(op, inputs, weights, gradients)
    else:
        num_bytes += out_bytes

        def time(function):
            return lambda: function(*inputs)

        def check(result):
            part = _ends(num_rows)
            assert_close(result[part], reference(ours, *(rows[part] for rows in inputs)))

    return Group(
        op,
        mode,
        f"{num_rows:,} × {width}",
        peer_rows(ours, peers(op), time),
        check,
        num_bytes if num_rows * width >= 100_000 else None,  # less stays in the caches
        "touched" if mode.endswith(KEPT) else "fresh",
        {"rows": num_rows, "width": width},
    )


def _inputs(op: str, num_rows: int, width: int) -> list[Tensor]:
    made: list[Tensor] = []
    for seed, kind in enumerate(ARGUMENTS[op]):
        rows = tangent_rows(num_rows, width, seed)
        if kind == "point":
            rows = ops.expmap0(rows)
        elif kind == "tangent":
            rows = ops.project_tangent(made[0], rows)
        elif kind == "ambient":
            rows = normal(num_rows, width, seed=seed)
        made.append(rows)
    return made


def _fitting(function: Callable, inputs: list[Tensor], weights: Tensor) -> Tensor:
    """weights in the shape of this peer's result: some keep a last dimension of 1."""
    return weights.reshape(function(*(rows[:1] for rows in inputs)).shape[:0] + weights.shape)


def _ends(num_rows: int) -> Tensor:
    """Rows of both ends of a table, where what is not written would show."""
    index = torch.arange(num_rows)
    return index if num_rows <= 2 * CHECKED else torch.cat([index[:CHECKED], index[-CHECKED:]])


def _check_gradients(op: str, inputs, weights, gradients) -> None:
    """Compare gradients by the spatial part: the time coordinate follows from it, and peers differ in
    how they share the derivative between the two."""
    part = _ends(len(weights))
    rows = [tensor[part] for tensor in inputs]
    call = with_backward(
        getattr(ops, op), *(r.double() for r in rows), weights=weights[part].double()
    )
    expected = reference(lambda: call())
    for found, wanted in zip(
        _pulled_back(op, rows, [g[part] for g in gradients]), _pulled_back(op, rows, expected)
    ):
        assert_close(found, wanted, tolerance=2e-3)


def _pulled_back(op: str, rows, gradients):
    kinds = ARGUMENTS[op]
    leaves = [
        (row if kind == "ambient" else row[:, 1:]).double().requires_grad_()
        for kind, row in zip(kinds, rows)
    ]
    full: list[Tensor] = []
    for kind, leaf in zip(kinds, leaves):
        if kind == "ambient":
            full.append(leaf * 1)
        else:
            row = with_time(leaf, 1.0, point=kind == "point")
            full.append(tangent(full[0], row) if kind == "tangent" else row)
    return torch.autograd.grad(full, leaves, [g.double() for g in gradients])
