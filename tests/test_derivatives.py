"""Derivatives under torch.func and vmap: the first in reverse, and no other."""

from __future__ import annotations

import warnings

import pytest
import torch
from model_cases import WIDTH, make_model
from ops_cases import CASES, points, tangents
from torch.autograd import forward_ad

from hdrm import ops

by_case = pytest.mark.parametrize("case", CASES, ids=str)


@by_case
def test_torch_func_has_autograds_gradient(case):
    inputs = case.make(7, 6, 0.7, torch.float64)

    def total(*xs):
        found = case.run(*xs, c=0.7)
        return sum(out.square().sum() for out in (found if isinstance(found, tuple) else (found,)))

    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(total(*leaves), leaves)
    found = torch.func.grad(total, argnums=tuple(range(len(inputs))))(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert any(gradient.any() for gradient in found)


def test_torch_func_differentiates_the_encoder():
    model = make_model().train()
    weights = {name: p.detach() for name, p in model.encoder.named_parameters()}

    def total(weights):
        return torch.func.functional_call(model.encoder, weights, (model.graph,)).square().sum()

    model.encoder(model.graph).square().sum().backward()
    assert torch.equal(torch.func.grad(total)(weights)["table"], model.encoder.table.grad)


@by_case
def test_what_is_not_a_first_derivative_in_reverse_is_refused(case):
    """torch would take a gradient for a constant, and a tangent for 0."""
    inputs = case.make(7, 6, 0.7, torch.float64)

    def total(*xs):
        found = case.run(*xs, c=0.7)
        return sum(out.square().sum() for out in (found if isinstance(found, tuple) else (found,)))

    leaves = [x.clone().requires_grad_() for x in inputs]
    gradient = torch.autograd.grad(total(*leaves), leaves[0], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        gradient.sum().backward()
    nested = torch.func.grad(lambda x: torch.func.grad(total)(x, *inputs[1:]).sum())
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        nested(inputs[0])
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: case.run(x, *inputs[1:], c=0.7), (inputs[0],), (inputs[0],))
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.hessian(lambda x: total(x, *inputs[1:]))(inputs[0])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="no forward-mode derivative"):
        case.run(forward_ad.make_dual(inputs[0], inputs[0]), *inputs[1:], c=0.7)
    with forward_ad.dual_level():  # of what has no tangent nothing is asked
        case.run(*inputs, c=0.7)


def test_vmap_of_rows_is_a_batch():
    x, y = points(12, 6, 1.0).view(3, 4, 6), points(4, 6, 1.0, seed=1)
    expected = ops.distance(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vmap, grad = torch.func.vmap, torch.func.grad
        assert torch.equal(vmap(ops.distance, (0, None))(x, y), expected)
        assert torch.equal(vmap(ops.distance, (1, 0), 1)(x, y), expected)
        assert torch.equal(vmap(vmap(ops.distance), (0, None))(x, y), expected)
        assert torch.equal(vmap(ops.expmap0)(x), ops.expmap0(x))
        hinge = vmap(lambda u: ops.margin_ranking_loss(u, x[0], y, 0.1))(x)
        gradient = vmap(vmap(grad(ops.sqdist)), (0, None))(x, y)
    for i in range(3):
        torch.testing.assert_close(hinge[i], ops.margin_ranking_loss(x[i], x[0], y, 0.1))
    leaf = x.clone().requires_grad_()
    ops.sqdist(leaf, y).sum().backward()
    assert torch.equal(gradient, leaf.grad)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_of_tables_is_a_loop_and_of_steps_refused():
    model, tables = make_model(), tangents(100, WIDTH).view(2, 50, WIDTH)

    def encode(h):
        return ops.propagate(h, model.graph, 2, space="tangent")

    assert torch.equal(torch.func.vmap(encode)(tables), torch.stack([encode(h) for h in tables]))
    with pytest.raises(
        RuntimeError, match="riemannian_sgd_step_ works in place and cannot be vmapped"
    ):
        torch.func.vmap(lambda x, g: ops.riemannian_sgd_step_(x, g, None, lr=0.1))(tables, tables)
