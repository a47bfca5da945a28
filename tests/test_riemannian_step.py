"""The fused steps against the same step put together from single ops, in float64."""

from __future__ import annotations

import pytest
import torch
from ops_cases import BACKENDS, CURVATURES, WIDTHS, points, vectors

from hdrm import ops

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_curvature = pytest.mark.parametrize("c", CURVATURES)
by_width = pytest.mark.parametrize("width", [*WIDTHS, 2050])  # the last more than a tile's columns


def inputs(rows, width, c, dtype=torch.float64):
    x = points(rows, width, c, dtype)
    moment = ops.project_tangent(x, vectors(rows, width, dtype, seed=1) * 0.1, c=c)
    return x, vectors(rows, width, dtype, seed=2) * (1 / width**0.5), moment


def riemannian_gradient(x, grad, weight_decay, c):
    """geoopt's order: decay in ambient coordinates, then the conversion."""
    x = ops.project(x, c=c)
    return ops.egrad2rgrad(x, grad + weight_decay * x, c=c)


def sgd(x, grad, moment, lr, momentum, dampening, weight_decay, nesterov, c):
    v = riemannian_gradient(x, grad, weight_decay, c)
    if moment is None:
        return ops.expmap(x, -lr * v, c=c), None
    moment = momentum * moment + (1 - dampening) * v
    direction = v + momentum * moment if nesterov else moment
    y = ops.expmap(x, -lr * direction, c=c)
    return y, ops.transport(x, y, moment, c=c)


def adam(x, grad, moment, second, lr, beta1, beta2, eps, weight_decay, step, c):
    v = riemannian_gradient(x, grad, weight_decay, c)
    moment = beta1 * moment + (1 - beta1) * v
    square = (v[:, 1:] ** 2).sum(1, keepdim=True) - v[:, :1] ** 2
    second = beta2 * second + (1 - beta2) * square
    size = (second / (1 - beta2**step)).sqrt() + eps
    y = ops.expmap(x, -lr * moment / (1 - beta1**step) / size, c=c)
    return y, ops.transport(x, y, moment, c=c), second


def close(found, expected, tolerance=1e-12):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)


@by_backend
@by_curvature
@by_width
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd(backend, c, width, nesterov):
    x, grad, moment = inputs(11, width, c)
    dampening = 0.0 if nesterov else 0.3
    options = {"lr": 0.2, "momentum": 0.9, "dampening": dampening, "weight_decay": 0.01}
    expected = sgd(x, grad, moment, **options, nesterov=nesterov, c=c)
    with ops.use_backend(backend):
        ops.riemannian_sgd_step_(x, grad, moment, **options, nesterov=nesterov, c=c)
    close(x, expected[0])
    close(moment, expected[1])


@by_backend
@by_curvature
def test_sgd_without_momentum(backend, c):
    x, grad, _ = inputs(11, 9, c)
    expected, _ = sgd(x, grad, None, 0.2, 0.0, 0.0, 0.01, False, c)
    with ops.use_backend(backend):
        ops.riemannian_sgd_step_(x, grad, None, lr=0.2, weight_decay=0.01, c=c)
    close(x, expected)


@by_backend
@by_curvature
@by_width
def test_adam(backend, c, width):
    x, grad, moment = inputs(11, width, c)
    second = torch.rand(11, 1, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    expected = adam(x, grad, moment, second, 0.1, 0.8, 0.95, 1e-8, 0.01, 3, c)
    with ops.use_backend(backend):
        ops.riemannian_adam_step_(
            x, grad, moment, second, step=3, lr=0.1, betas=(0.8, 0.95), weight_decay=0.01, c=c
        )
    for found, wanted in zip((x, moment, second), expected):
        close(found, wanted)


@by_backend
@pytest.mark.parametrize("rows", [0, 1, 17])
def test_float32_stays_on_the_manifold(backend, rows):
    x, grad, moment = inputs(rows, 33, 1.0, torch.float32)
    with ops.use_backend(backend):
        for _ in range(10):
            ops.riemannian_sgd_step_(x, grad, moment, lr=0.02, momentum=0.9)
    wide, m = x.double(), moment.double()
    norm = (wide[:, 1:] ** 2).sum(1) - wide[:, 0] ** 2
    assert ((norm + 1).abs() <= 1e-6 * wide[:, 0] ** 2).all()
    inner = (wide[:, 1:] * m[:, 1:]).sum(1) - wide[:, 0] * m[:, 0]
    assert (inner.abs() <= 1e-6 * wide[:, 0] * m.norm(dim=1)).all()


@by_backend
def test_a_gradient_of_any_strides(backend):
    x, grad, moment = inputs(5, 9, 1.0)
    expected = [tensor.clone() for tensor in (x, moment)]
    strided = grad.t().contiguous().t()
    with ops.use_backend(backend):
        ops.riemannian_sgd_step_(x, strided, moment, lr=0.1, momentum=0.9)
        ops.riemannian_sgd_step_(expected[0], grad, expected[1], lr=0.1, momentum=0.9)
    assert torch.equal(x, expected[0]) and torch.equal(moment, expected[1])


@by_backend
def test_a_zero_gradient_moves_nothing(backend):
    x, grad, moment = inputs(5, 9, 1.0)
    before = x.clone()
    with ops.use_backend(backend):
        ops.riemannian_sgd_step_(x, torch.zeros_like(grad), None, lr=1.0)
        ops.riemannian_adam_step_(
            x, torch.zeros_like(grad), torch.zeros_like(moment), torch.zeros(5, 1).double(),
            step=1, lr=1.0,
        )  # fmt: skip
    torch.testing.assert_close(x, before, rtol=1e-15, atol=1e-15)


@by_backend
def test_rows_are_independent(backend):
    """A NaN in one row stays in that row; the others are as without it."""
    x, grad, moment = inputs(6, 9, 1.0)
    grad[2] = torch.nan
    with ops.use_backend(backend):
        alone = [tensor[[0, 1, 3, 4, 5]].contiguous() for tensor in (x, grad, moment)]
        ops.riemannian_sgd_step_(x, grad, moment, lr=0.1, momentum=0.5)
        ops.riemannian_sgd_step_(*alone, lr=0.1, momentum=0.5)
    assert x[2].isnan().all()
    assert torch.equal(x[[0, 1, 3, 4, 5]], alone[0])
