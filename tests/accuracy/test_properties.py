"""What holds for exact arithmetic holds in float32 up to rounding, at any curvature and radius."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ops_cases import BACKENDS, generator, points, tangents, vectors

from hdrm import ops

by_backend = pytest.mark.parametrize("backend", BACKENDS)
anywhere = given(
    seed=st.integers(0, 10**6),
    log_c=st.floats(math.log(1e-3), math.log(1e3)),
    radius=st.floats(1e-6, 8.5),
)
few = settings(max_examples=30, deadline=None)
EPS = 2.0**-23


def float32_points(count, c, radius, seed):
    return [points(8, 6, c, torch.float32, radius, seed + k) for k in range(count)]


@by_backend
@few
@anywhere
def test_distance_is_a_metric(backend, seed, log_c, radius):
    c = math.exp(log_c)
    x, y, z = float32_points(3, c, radius, seed)
    with ops.use_backend(backend):
        xy, yz, xz = (ops.distance(a, b, c=c) for a, b in ((x, y), (y, z), (x, z)))
        torch.testing.assert_close(ops.distance(y, x, c=c), xy, rtol=4 * EPS, atol=0)
        assert (xz <= (xy + yz) * (1 + 8 * EPS)).all()
        # On a geodesic, where equality holds: the rounding of the middle moves it by the rounding
        # of its radius, EPS·cosh ρ.
        middle = ops.expmap(x, 0.5 * ops.logmap(x, y, c=c), c=c)
        both = ops.distance(x, middle, c=c) + ops.distance(middle, y, c=c)
    moved = EPS * math.cosh(radius) * c**-0.5
    assert (both >= xy * (1 - 8 * EPS)).all()
    assert (both <= xy * (1 + 1e-5) + 50 * moved).all()


@by_backend
@few
@anywhere
def test_distance_in_float64_is_the_textbook_one(backend, seed, log_c, radius):
    """r·arcosh(−⟨x,y⟩/K) where that is well conditioned: apart, and not far out."""
    c, radius = math.exp(log_c), min(radius, 4.0)
    x, y = (points(8, 6, c, torch.float64, radius, seed + k) for k in (0, 1))
    with ops.use_backend(backend):
        found = ops.distance(x, y, c=c)
    product = (x[:, 0] * y[:, 0] - (x[:, 1:] * y[:, 1:]).sum(1)) * c
    rounding = 1e-15 * math.cosh(radius) ** 2  # of the product; arcosh takes its root at worst
    expected = product.clamp(min=1).acosh() * c**-0.5
    assert ((found - expected).abs() <= 1e-13 * expected + (8 * rounding / c) ** 0.5).all()


@by_backend
@few
@anywhere
def test_squares_agree(backend, seed, log_c, radius):
    """distance², sqdist of points, and sqdist0 of their tangent vectors are one number."""
    c = math.exp(log_c)
    u, v = (tangents(8, 6, torch.float32, radius / c**0.5, seed + k) for k in (0, 1))
    with ops.use_backend(backend):
        squared = ops.sqdist0(u, v, c=c)
        x, y = ops.expmap0(u.double(), c=c), ops.expmap0(v.double(), c=c)
        torch.testing.assert_close(squared.double(), ops.sqdist(x, y, c=c), rtol=2e-6, atol=0)
        x, y = x.float(), y.float()
        distance = ops.distance(x, y, c=c)
        torch.testing.assert_close(ops.sqdist(x, y, c=c), distance.square(), rtol=8 * EPS, atol=0)


@by_backend
@few
@anywhere
def test_isometries(backend, seed, log_c, radius):
    """Permutations of axes change no bit of the input; others move points by their rounding."""
    c = math.exp(log_c)
    x, y = float32_points(2, c, min(radius, 4.0), seed)
    rapidity = torch.rand(1, generator=generator(seed)).item()
    boost = torch.eye(6, dtype=torch.float64)
    boost[0, 0] = boost[1, 1] = math.cosh(rapidity)
    boost[0, 1] = boost[1, 0] = math.sinh(rapidity)
    rotation = torch.eye(6, dtype=torch.float64)
    rotation[1:, 1:] = torch.linalg.qr(vectors(5, 5, seed=seed))[0]
    with ops.use_backend(backend):
        before = ops.distance(x, y, c=c)
        order = [0, 3, 1, 5, 2, 4]
        turned = ops.distance(x[:, order], -y[:, order].neg(), c=c)
        torch.testing.assert_close(turned, before, rtol=8 * EPS, atol=0)
        images = [(ops.project(p.double(), c=c) @ rotation @ boost).float() for p in (x, y)]
        moved = ops.distance(*images, c=c)
    slack = EPS * math.cosh(min(radius, 4.0) + rapidity) * c**-0.5
    assert ((moved - before).abs() <= 8 * EPS * before + 4 * slack).all()


@by_backend
@few
@anywhere
def test_maps_at_the_origin_invert_each_other(backend, seed, log_c, radius):
    c = math.exp(log_c)
    u = tangents(8, 6, torch.float32, radius / c**0.5, seed)
    (x,) = float32_points(1, c, radius, seed)
    with ops.use_backend(backend):
        back = ops.logmap0(ops.expmap0(u, c=c), c=c)
        again = ops.expmap0(ops.logmap0(x, c=c), c=c)
    assert ((back - u).norm(dim=1) <= 1e-6 * u.norm(dim=1)).all()
    # exp turns the rounding of a radius ρ into ρ·coth ρ times as much.
    spatial = x[:, 1:].norm(dim=1)
    assert ((again - x)[:, 1:].norm(dim=1) <= 1e-6 * (1 + radius) * spatial).all()


@by_backend
@few
@anywhere
def test_maps_at_base_points(backend, seed, log_c, radius):
    """exp∘log, log∘exp, transport there and back, inner products: up to the points' rounding."""
    c, radius = math.exp(log_c), min(radius, 3.0)
    x, y = float32_points(2, c, radius, seed)
    v, w = (vectors(8, 6, torch.float32, seed + k) * c**-0.5 for k in (2, 3))
    grown = 1e-6 * math.cosh(radius) ** 2

    def inner(a, b):
        a, b = (ops.project_tangent(x.double(), p.double(), c=c) for p in (a, b))
        return (a[:, 1:] * b[:, 1:]).sum(1) - a[:, 0] * b[:, 0]

    with ops.use_backend(backend):
        back = ops.expmap(x, ops.logmap(x, y, c=c), c=c)
        assert ((back - y).norm(dim=1) <= grown * y.norm(dim=1)).all()
        again = ops.logmap(x, ops.expmap(x, v, c=c), c=c)
        assert ((again - v)[:, 1:].norm(dim=1) <= grown * v.norm(dim=1)).all()
        there = ops.transport(x, y, v, c=c)
        home = ops.transport(y, x, there, c=c)
        assert ((home - ops.project_tangent(x, v, c=c)).norm(dim=1) <= grown * v.norm(dim=1)).all()
        before, x = inner(v, w), y
        after = inner(there, ops.transport(float32_points(1, c, radius, seed)[0], y, w, c=c))
    assert ((after - before).abs() <= grown * v.norm(dim=1) * w.norm(dim=1)).all()


@by_backend
@few
@anywhere
def test_results_lie_on_the_manifold(backend, seed, log_c, radius):
    """y0 = √(K + |ys|²), and ⟨y,z⟩ = 0 for z tangent at y, to the rounding of their terms."""
    c = math.exp(log_c)
    x, y = float32_points(2, c, radius, seed)
    u = tangents(8, 6, torch.float32, radius / c**0.5, seed)
    v = vectors(8, 6, torch.float32, seed) * c**-0.5
    with ops.use_backend(backend):
        ends = [ops.expmap0(u, c=c), ops.project(x, c=c), ops.expmap(x, v, c=c)]
        at_x = [ops.project_tangent(x, v, c=c), ops.logmap(x, y, c=c), ops.egrad2rgrad(x, v, c=c)]
        at_y = [ops.transport(x, y, v, c=c)]
    for end in ends:
        time = (1 / c + end[:, 1:].double().square().sum(1)).sqrt()
        assert ((end[:, 0] - time).abs() <= 2 * EPS * time).all()
    for base, found in ((x, at_x), (y, at_y)):
        base = base.double()
        time = (1 / c + base[:, 1:].square().sum(1)).sqrt()
        for z in found:
            inner = (base[:, 1:] * z[:, 1:]).sum(1) - time * z[:, 0]
            assert (inner.abs() <= 2 * EPS * time * z.double().norm(dim=1)).all()


BY_KIND = {  # what each op's arguments are: points x, vectors v, tangent vectors u at the origin
    "expmap0": "u",
    **dict.fromkeys(("logmap0", "project"), "x"),
    **dict.fromkeys(("project_tangent", "egrad2rgrad", "expmap"), "xv"),
    **dict.fromkeys(("logmap", "distance", "sqdist"), "xx"),
    "transport": "xxv",
    "sqdist0": "uu",
}


@by_backend
@pytest.mark.parametrize("op", BY_KIND)
@settings(max_examples=15, deadline=None)
@anywhere
def test_float32_is_float64_rounded(backend, op, seed, log_c, radius):
    """Values, and gradients from random weights of the result, against autograd in float64."""
    c = math.exp(log_c)
    make = {
        "u": lambda k: tangents(8, 6, torch.float32, radius / c**0.5, k),
        "x": lambda k: points(8, 6, c, torch.float32, radius, k),
        "v": lambda k: vectors(8, 6, torch.float32, k) * c**-0.5,
    }
    inputs = [make[kind](seed + k) for k, kind in enumerate(BY_KIND[op])]
    results = {}
    for dtype, name in ((torch.float32, backend), (torch.float64, "reference")):
        leaves = [rows.to(dtype).requires_grad_() for rows in inputs]
        with ops.use_backend(name):
            found = getattr(ops, op)(*leaves, c=c)
            weights = vectors(8, 6, torch.float32, seed + 9).to(dtype)
            weights = weights if found.dim() == 2 else weights[:, 0]
            results[dtype] = [found.detach(), *torch.autograd.grad(found, leaves, weights)]
    for found, expected in zip(results[torch.float32], results[torch.float64]):
        found, expected = found.double().view(8, -1), expected.view(8, -1)
        assert ((found - expected).norm(dim=1) <= 1e-5 * expected.norm(dim=1)).all()
