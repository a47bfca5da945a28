"""The accuracy that float32 owes, op by op and range by range, on inputs new to the report."""

from __future__ import annotations

import functools

import pytest
import torch
from ops_cases import BACKENDS, vectors

from hdrm import ops
from hdrm.accuracy import oracle
from hdrm.accuracy.measure import errors, exact, relative
from hdrm.accuracy.pairs import MAKERS, RANGES, Batch, batches
from hdrm.accuracy.peers import Competitor, run_hdrm

by_backend = pytest.mark.parametrize("backend", BACKENDS)


@functools.cache
def cases(op):
    return [(batch, exact(batch)) for batch in batches(op, seed=100, quick=True)]


@by_backend
@pytest.mark.parametrize("op", MAKERS)
def test_errors_are_within_the_table(op, backend):
    who = Competitor(backend, run_hdrm(backend))
    for batch, truth in cases(op):
        for kind, found in zip(("value", "gradient"), errors(who, batch, truth)):
            for at, error in zip(batch.ranges, found.tolist()):
                allowed = RANGES[op][at][kind == "gradient"]
                allowed = 1e-2 if allowed is None else allowed  # finite, and not another number
                assert error <= allowed, f"{kind}, c = {batch.c}, {at}: {error:.1e}"


@by_backend
@pytest.mark.parametrize("op", ["expmap0", "sqdist0"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_tangent_vectors_in_16_bits(op, dtype, backend):
    """Storage costs the rounding of the inputs and nothing else: the arithmetic is float32's."""
    batch, _ = cases(op)[0]
    inside = torch.tensor([RANGES[op][at][0] is not None for at in batch.ranges])
    stored = [rows[inside].to(dtype) for rows in batch.rows]
    truth = exact(Batch(op, batch.c, [rows.float() for rows in stored], [])).values
    with ops.use_backend(backend):
        found = getattr(ops, op)(*stored, c=batch.c)
    assert found.dtype == torch.float32
    assert relative(found.view(truth.shape), truth).max() <= 3e-6


@by_backend
def test_steps_beyond_the_range_stay_at_its_end(backend):
    """expmap from far out, further out: at the largest radius, in the right direction.

    There the end only turns: its gradient is that of the direction, times the radius.
    """
    x = torch.tensor([[0.0, 30.0, 30.0, 0.0], [0.0, 1e-3, 0.0, 0.0], [0.0, 0.0, 42.9, 0.0]])
    v = torch.tensor([[0.0, 3e18, 1e18, 0.0], [0.0, 60.0, 0.0, 2.0], [0.0, 0.0, 5e19, 0.0]])
    weights = vectors(3, 4, torch.float32)
    with ops.use_backend(backend):
        x = ops.expmap0(x).requires_grad_()
        y = ops.expmap(x, v.requires_grad_())
        gradients = torch.autograd.grad(y, (x, v), weights)
    assert torch.isfinite(y).all() and torch.isfinite(y.square().sum(1)).all()
    radius = oracle.mp.sinh(43)
    for k in range(3):
        xs, vs, ys, w = (oracle.row(rows[k]) for rows in (x, v, y, weights))
        assert float(oracle.mp.norm(ys) / radius) == pytest.approx(1, rel=1e-6)
        turn = oracle.mp.norm([a - b for a, b in zip(direction(ys), heading(xs, vs, 1.0))])
        assert turn < 1e-6
        for found, slopes in zip(gradients, oracle.jacobian(heading, [xs, vs], 1.0)):
            exact = [oracle.mp.fdot(slope, w) * radius for slope in slopes]
            size = oracle.mp.norm([entry for slope in slopes for entry in slope]) * radius
            error = oracle.mp.norm([a - b for a, b in zip(oracle.row(found[k]), exact)])
            assert error <= 1e-5 * size + 1e-15 * radius  # what cancels is as large as the radius


def heading(xs, vs, c):
    """The direction in which the end of the step lies."""
    return direction(oracle.expmap(xs, vs, c)[1:])


def direction(row):
    size = oracle.mp.norm(row)
    return [value / size for value in row]
