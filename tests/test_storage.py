"""Tangent vectors kept in 16 bits: widened for float32 arithmetic, what is written rounded once."""

from __future__ import annotations

import pytest
import torch
from ops_cases import BACKENDS, points, small_graph, tangents, vectors

from hdrm import ops
from hdrm.ops import backend

by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
HALF_ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # of a number, relative

ROW_OPS = {
    "expmap0": (ops.expmap0, 1),
    "sqdist0": (ops.sqdist0, 2),
    "margin_ranking_loss": (lambda u, p, n: ops.margin_ranking_loss(u, p, n, 0.2), 3),
}


@by_backend
@by_dtype
@pytest.mark.parametrize("name", ROW_OPS)
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_row_ops(backend, dtype, name, rows):
    """float32 results as exact as from float32 inputs; gradients in the input's dtype."""
    op, count = ROW_OPS[name]
    inputs = [tangents(rows, 33, dtype, radius=3.0, seed=k).requires_grad_() for k in range(count)]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    with ops.use_backend("reference"):
        expected = op(*exact)
        weights = vectors(expected.numel(), 1).view(expected.shape)
        wanted = torch.autograd.grad(expected, exact, weights)
    with ops.use_backend(backend):
        found = op(*inputs)
        gradients = torch.autograd.grad(found, inputs, weights.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=5e-6)
    for gradient, want in zip(gradients, wanted):
        assert gradient.dtype == dtype
        error = (gradient.double() - want).abs()
        smallest = torch.finfo(dtype).smallest_normal * 2.0**-10
        assert (
            error <= HALF_ULP[dtype] * 1.001 * want.abs() + 1e-6 * want.abs().max() + smallest
        ).all()


T, ALPHA_BAR = torch.arange(9) % 3, torch.tensor([0.9, 0.5, 0.1])


def noised(op):
    return lambda z: op(z, T.to(z.device), ALPHA_BAR.to(z.device), seed=3)


TABLE_OPS = {
    "isotropic_noise": noised(ops.isotropic_noise),
    "directional_noise": noised(ops.directional_noise),
    "propagate": lambda z: ops.propagate(z, small_graph(), 3, space="tangent"),
    "propagate[lightgcn]": lambda z: ops.propagate(
        z, small_graph(), 4, space="tangent", normalization="symmetric", combine="mean"
    ),
}


@by_backend
@by_dtype
@pytest.mark.parametrize("name", TABLE_OPS)
def test_tables(backend, dtype, name):
    """Results and gradients in the table's dtype, as near to float64 as it allows: one rounding."""
    run = TABLE_OPS[name]
    z, g = tangents(9, 21, dtype, radius=2.0).requires_grad_(), vectors(9, 21, dtype, seed=1)
    exact = z.detach().double().requires_grad_()
    with ops.use_backend("reference"):
        expected = run(exact)
        (wanted,) = torch.autograd.grad(expected, exact, g.double())
    with ops.use_backend(backend):
        found = run(z)
        (gradient,) = torch.autograd.grad(found, z, g)
        if backend == "cpu":
            assert torch.equal(found, run(z.float()).to(dtype))
    rounded = wanted.abs()
    if name == "directional_noise":  # the parts through z0 and through μ, σ, and their sum
        through_z0 = ALPHA_BAR[T].sqrt().to(g.device)[:, None] * g.double()
        rounded = rounded + through_z0.abs() + (wanted - through_z0).abs()
    for got, want, size in ((found, expected, expected.abs()), (gradient, wanted, rounded)):
        assert got.dtype == dtype
        error = (got.double() - want).abs()
        assert (error <= HALF_ULP[dtype] * 1.001 * size + 1e-6 * want.abs().max()).all()
        assert (got[:, 0] == 0).all()


@by_backend
@by_dtype
def test_statistics(backend, dtype):
    """float32 results as exact as from float32 inputs; the gradient in the input's dtype."""
    z = tangents(9, 21, dtype, radius=2.0).requires_grad_()
    exact = z.detach().double().requires_grad_()
    weights = [vectors(21, 1, torch.float32, seed=k)[:, 0] for k in range(2)]
    with ops.use_backend("reference"):
        expected = ops.column_statistics(exact)
        (wanted,) = torch.autograd.grad(expected, exact, [w.double() for w in weights])
    with ops.use_backend(backend):
        found = ops.column_statistics(z)
        (gradient,) = torch.autograd.grad(found, z, weights)
    for got, want in zip(found, expected):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)
    assert gradient.dtype == dtype
    error = (gradient.double() - wanted).abs()
    assert (error <= HALF_ULP[dtype] * 1.001 * wanted.abs() + 1e-6 * wanted.abs().max()).all()


@by_dtype
@pytest.mark.parametrize("namespace", ["hdrm", "hdrm_reference"])
@pytest.mark.parametrize(
    "name", ["directional_noise", "isotropic_noise", "column_statistics", "propagate"]
)
def test_opcheck(dtype, namespace, name):
    """What the fakes promise, backward included, is what 16-bit tables get."""
    z, graph, seed = tangents(9, 6, dtype), small_graph(), torch.tensor([5])
    schedule = T, ALPHA_BAR.double(), seed, 0.1, 1.0, 2
    arguments = {
        "directional_noise": (z, *ops.column_statistics(z), *schedule),
        "isotropic_noise": (z, *schedule),
        "column_statistics": (z,),
        "propagate": (z, graph.rowptr, graph.col, 3, 1.0, False, False, True, False),
    }[name]
    library = getattr(torch.ops, namespace)
    grads = getattr(library, name)(*arguments)
    grads = grads if isinstance(grads, tuple) else (grads,)
    of_backward = tuple(backend.backward_arguments(name, grads, arguments))
    torch.library.opcheck(getattr(library, f"{name}_backward").default, of_backward)
    leaf = (z.clone().requires_grad_(), *arguments[1:])
    torch.library.opcheck(getattr(library, name).default, leaf)


@by_dtype
def test_given_statistics_are_float32(dtype):
    z = tangents(9, 5, dtype)
    mean, std = ops.column_statistics(z)
    with pytest.raises(TypeError, match="the arithmetic of z0 is torch.float32, std is torch"):
        ops.directional_noise(z, T, ALPHA_BAR, statistics=(mean, std.to(dtype)))


@by_dtype
@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.logmap0(x),
        lambda x: ops.distance(x, x),
        lambda x: ops.expmap(x, x),
        lambda x: ops.propagate(x, small_graph(), 2),
        lambda x: ops.topk(x, x, 2),
    ],
    ids=["logmap0", "distance", "expmap", "propagate", "topk"],
)
def test_points_in_16_bits_are_refused(dtype, call):
    with pytest.raises(TypeError, match="16 bits cannot hold a point.*points in float32"):
        call(points(9, 5, 1.0, dtype))


@by_dtype
def test_why_points_in_16_bits_are_refused(dtype):
    """Rounded coordinates miss the hyperboloid by more than its radius from some length on."""
    limit = {torch.bfloat16: 3.5, torch.float16: 4.5}[dtype]
    u = tangents(400, 33, radius=9.0)
    x = ops.expmap0(u).to(dtype).double()
    miss = ((x[:, 1:] ** 2).sum(1) - x[:, 0] ** 2 + 1).abs()
    radius = u.norm(dim=1)
    assert miss[radius > limit + 2].median() > 1
    assert miss[radius < limit - 2].median() < 0.2


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not built here")
@by_dtype
def test_every_16_bit_number_is_widened_exactly(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    rows = bits.view(dtype).view(-1, 1)
    found = torch.ops.hdrm.project(torch.cat([torch.zeros_like(rows), rows], 1), 1.0)[:, 1:]
    assert torch.equal(found.nan_to_num(nan=7.0), rows.float().nan_to_num(nan=7.0))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not built here")
@by_dtype
def test_float32_is_rounded_as_torch_does(dtype):
    """All exponents and signs, ties among them: the gradient of project is the gradient itself."""
    bits = torch.arange(-(2**31), 2**31, 65521, dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(0, 2**31, 2**12, dtype=torch.int64)).to(torch.int32)
    g = torch.cat([bits, ties]).view(torch.float32)
    g = torch.stack([torch.zeros_like(g), g], 1)
    x = torch.zeros(g.shape, dtype=dtype)
    found = torch.ops.hdrm.project_backward(g, x, 1.0)[:, 1:]
    expected = g[:, 1:].to(dtype)
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))
