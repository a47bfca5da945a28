"""The maps against 150-digit arithmetic, geoopt and their own identities."""

from __future__ import annotations

import geoopt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import BACKENDS, CURVATURES, generator, points, tangents, vectors

from hdrm import ops
from hdrm.accuracy import oracle

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_curvature = pytest.mark.parametrize("c", CURVATURES)
# Relative error allowed in float32 and float64: at the origin, and at base points.
ORIGIN = {torch.float32: 1e-6, torch.float64: 2e-15}
BASE = {torch.float32: 1e-6, torch.float64: 1e-12}
by_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])

# Radii over r, from far below a float's epsilon to the range of training.
RADII = (1e-30, 1e-8, 1e-4, 1e-3, 0.02, 0.29, 0.31, 0.99, 1.01, 2.5, 6.0, 9.0)


def at_radii(radii, width, c, dtype, seed=0):
    """Rows of the given lengths r·ρ in random directions."""
    u = torch.randn(len(radii), width, generator=generator(seed), dtype=torch.float64)
    u[:, 0] = 0
    length = torch.tensor(radii, dtype=torch.float64)[:, None] / c**0.5
    return (u / u.norm(dim=1, keepdim=True) * length).to(dtype)


def worst(found, expected):
    return max(oracle.relative_error(a.tolist(), b) for a, b in zip(found, expected))


@by_backend
@by_curvature
@by_dtype
@pytest.mark.parametrize("width", [2, 9])
def test_expmap0_against_mpmath(backend, c, dtype, width):
    u = at_radii(RADII, width, c, dtype)
    with ops.use_backend(backend):
        found = ops.expmap0(u, c=c)
    assert worst(found, [oracle.expmap0(oracle.row(row), c) for row in u]) < ORIGIN[dtype] * 2


@by_backend
@by_curvature
@by_dtype
@pytest.mark.parametrize("width", [2, 9])
def test_logmap0_against_mpmath(backend, c, dtype, width):
    radii = [1e-30, 1e-8, 1e-6, 1e-4, 0.02, 0.04, 0.5, 1.0, 1e2, 4e3, 1e9, 2e18]
    x = at_radii(radii, width, c, dtype)
    with ops.use_backend(backend):
        found = ops.logmap0(x, c=c)
    assert worst(found, [oracle.logmap0(oracle.row(row), c) for row in x]) < ORIGIN[dtype]


@by_backend
@by_curvature
@by_dtype
def test_base_point_maps_against_mpmath(backend, c, dtype):
    x = at_radii([1e-6, 0.1, 1.0, 10.0, 100.0, 100.0], 9, c, dtype)
    v = at_radii([1.0, 1e-4, 2.0, 1.0, 1e-3, 3.0], 9, c, dtype, seed=1)
    v[-1] = x[-1] * 0.03  # radial
    rows = [(oracle.row(a), oracle.row(b)) for a, b in zip(x, v)]
    with ops.use_backend(backend):
        y = ops.expmap(x, v, c=c)
        assert worst(y, [oracle.expmap(a, b, c) for a, b in rows]) < BASE[dtype]
        back = ops.logmap(x, y, c=c)
        exact = [oracle.logmap(a, oracle.row(b), c) for (a, _), b in zip(rows, y)]
        assert worst(back, exact) < BASE[dtype]
        moved = ops.transport(x, y, v, c=c)
        exact = [oracle.transport(a, oracle.row(b), w, c) for (a, w), b in zip(rows, y)]
        assert worst(moved, exact) < BASE[dtype]


@by_backend
@by_curvature
def test_against_geoopt_in_float64(backend, c):
    manifold = geoopt.Lorentz(k=torch.tensor(1 / c, dtype=torch.float64))
    x, y = points(30, 8, c, seed=0), points(30, 8, c, seed=1)
    g = vectors(30, 8, seed=2)
    with ops.use_backend(backend):
        v = ops.project_tangent(x, 0.3 * g, c=c)
        pairs = [
            (ops.expmap0(ops.logmap0(x, c=c), c=c), manifold.expmap0(manifold.logmap0(x))),
            (ops.logmap0(x, c=c), manifold.logmap0(x)),
            (ops.project(x, c=c), manifold.projx(x)),
            (ops.expmap(x, v, c=c), manifold.expmap(x, v)),
            (ops.logmap(x, y, c=c), manifold.logmap(x, y)),
            (ops.transport(x, y, v, c=c), manifold.transp(x, y, v)),
            (ops.egrad2rgrad(x, g, c=c), manifold.egrad2rgrad(x, g.clone())),
        ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


@by_backend
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.floats(0.05, 20.0), radius=st.floats(1e-3, 3.0))
def test_identities(backend, seed, c, radius):
    """exp and log invert each other, transport keeps inner products, results lie on the manifold."""
    x, y = (points(4, 6, c, radius=radius, seed=seed + k) for k in (0, 1))
    v, w = (vectors(4, 6, seed=seed + k) * radius * c**-0.5 for k in (2, 3))

    def inner(a, b):
        return (a[:, 1:] * b[:, 1:]).sum(1) - a[:, 0] * b[:, 0]

    with ops.use_backend(backend):
        v, w = ops.project_tangent(x, v, c=c), ops.project_tangent(x, w, c=c)
        torch.testing.assert_close(ops.expmap(x, ops.logmap(x, y, c=c), c=c), y)
        there = ops.transport(x, y, v, c=c)
        torch.testing.assert_close(ops.transport(y, x, there, c=c), v)
        torch.testing.assert_close(
            inner(there, ops.transport(x, y, w, c=c)), inner(v, w), rtol=1e-7, atol=1e-8
        )
        torch.testing.assert_close(
            inner(y, there), torch.zeros(4, dtype=y.dtype), rtol=0, atol=1e-8
        )
        end = ops.expmap(x, v, c=c)
        # On the manifold; ⟨y,y⟩ itself would subtract squares that are far larger than K far out.
        time = (end[:, 1:].square().sum(1) + 1 / c).sqrt()
        torch.testing.assert_close(end[:, 0], time, rtol=1e-14, atol=0)
        length = inner(v, v).sqrt()
        torch.testing.assert_close(ops.distance(x, end, c=c), length, rtol=1e-6, atol=1e-9)


@by_backend
@pytest.mark.parametrize("map_", [ops.expmap0, ops.logmap0, ops.project])
def test_the_origin(backend, map_):
    """Value and gradient at the origin: the maps are the identity there."""
    u = torch.zeros(3, 5, dtype=torch.float32, requires_grad=True)
    weights = vectors(3, 5, torch.float32)
    with ops.use_backend(backend):
        found = map_(u, c=4.0)
    (gradient,) = torch.autograd.grad(found, u, weights)
    assert (found[:, 1:] == 0).all() and torch.isfinite(found).all()
    torch.testing.assert_close(gradient[:, 1:], weights[:, 1:])


@by_backend
def test_coincident_points(backend):
    x = points(4, 6, 1.0, torch.float32).requires_grad_()
    v = vectors(4, 6, torch.float32)
    with ops.use_backend(backend):
        log = ops.logmap(x, x.detach())
        moved = ops.transport(x, x.detach(), v)
        gradients = torch.autograd.grad([log, moved], x, [v, v])
    assert (log == 0).all()
    torch.testing.assert_close(moved[:, 1:], v[:, 1:])
    assert torch.isfinite(gradients[0]).all()


@by_backend
@by_dtype
def test_the_end_of_the_range(backend, dtype):
    """Up to the largest radius all is finite; beyond it the point stays there, in its direction."""
    limit = {torch.float32: 43.0, torch.float64: 350.0}[dtype]
    u = at_radii([limit * 0.999, limit * 1.5, limit * 100], 4, 1.0, dtype).requires_grad_()
    with ops.use_backend(backend):
        x = ops.expmap0(u)
        back = ops.logmap0(x)
    (gradient,) = torch.autograd.grad(back.square().sum(), u)
    for tensor in (x, back, gradient, (x * x).detach()):
        assert torch.isfinite(tensor).all()
    torch.testing.assert_close(back[:1], u[:1], rtol=1e-5, atol=0)
    torch.testing.assert_close(
        back[1:].norm(dim=1), torch.full((2,), limit, dtype=dtype), rtol=1e-5, atol=0
    )
    direction = torch.nn.functional.cosine_similarity(back[:, 1:], u[:, 1:])
    torch.testing.assert_close(direction, torch.ones_like(direction), rtol=1e-5, atol=0)


@by_backend
@by_curvature
def test_float32_gradients_against_float64(backend, c):
    """Relative to each row's gradient, at radii from 1e-6 to 9."""
    radii = [1e-6, 1e-3, 0.1, 1.0, 3.0, 6.0, 9.0]
    weights = vectors(len(radii), 6)

    def gradients(dtype, backend):
        u = at_radii(radii, 6, c, torch.float32).to(dtype).requires_grad_()
        x = at_radii([2.718**rho for rho in radii], 6, c, torch.float32).to(dtype).requires_grad_()
        with ops.use_backend(backend):
            found = [(ops.expmap0(u, c=c), u), (ops.logmap0(x, c=c), x), (ops.project(x, c=c), x)]
        return [torch.autograd.grad(a, b, weights.to(dtype))[0] for a, b in found]

    for found, expected in zip(
        gradients(torch.float32, backend), gradients(torch.float64, "reference")
    ):
        error = (found.double() - expected).norm(dim=1) / expected.norm(dim=1)
        assert error.max() < 1e-5


def test_tangent_inputs_ignore_their_time():
    u = tangents(3, 5)
    v = u.clone()
    v[:, 0] = torch.nan
    assert torch.equal(ops.expmap0(u), ops.expmap0(v))
