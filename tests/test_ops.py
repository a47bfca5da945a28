"""What every op must do, whatever it computes: one table of cases, every backend."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ops_cases import (
    BACKENDS,
    CASES,
    CURVATURES,
    ROW_CASES,
    WIDTHS,
    generator,
    points,
    poisoned,
    small_graph,
    tangents,
    vectors,
)

from hdrm import ops
from hdrm.ops import backend as backend_module

NAMESPACES = ["hdrm", "hdrm_reference"]
NAMESPACES += [f"hdrm_{name}" for name in ("cuda", "triton") if name in BACKENDS]
NATIVE = [name for name in BACKENDS if name != "reference"]
by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_backend = pytest.mark.parametrize("backend", BACKENDS)
by_native = pytest.mark.parametrize("backend", NATIVE)


def run(case, inputs, c, backend):
    """Results and gradients of a case, the gradients for fixed weights of the results."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with ops.use_backend(backend):
        found = case.run(*leaves, c=c)
        found = found if isinstance(found, tuple) else (found,)
        weights = [
            vectors(max(out.numel(), 1), 1, out.dtype, seed=11)[: out.numel()] for out in found
        ]
        weights = [weight.view(out.shape) for weight, out in zip(weights, found)]
        gradients = torch.autograd.grad(found, leaves, weights)
    return [out.detach() for out in found], list(gradients)


def assert_same(found, expected, tolerance):
    for kind, got, want in zip(("result", "gradient"), found, expected):
        for k, (a, b) in enumerate(zip(got, want)):
            assert a.shape == b.shape
            error = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
            scale = max(b.abs().max().item(), 1e-3) if b.numel() else 1.0
            assert error <= tolerance * scale, f"{kind} {k}: {error:.2e} of {scale:.2e}"


@by_native
@by_case
@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("width", WIDTHS)
def test_float32_equals_reference(case, c, width, backend):
    inputs = case.make(13, width, c, torch.float64)
    single = [tensor.float() for tensor in inputs]
    expected = run(case, [tensor.double() for tensor in single], c, "reference")
    assert_same(run(case, single, c, backend), expected, 5e-6)


@by_native
@by_case
def test_float64_equals_reference(case, backend):
    inputs = case.make(19, 65, 0.7, torch.float64)
    assert_same(
        run(case, inputs, 0.7, backend), run(case, inputs, 0.7, "reference"), case.float64_tolerance
    )


@by_native
@pytest.mark.parametrize("case", ROW_CASES, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 16, 17])
def test_number_of_rows(case, rows, backend):
    inputs = case.make(rows, 5, 1.0, torch.float64)
    assert_same(
        run(case, inputs, 1.0, backend), run(case, inputs, 1.0, "reference"), case.float64_tolerance
    )


@by_backend
@by_case
@pytest.mark.parametrize("contiguous", [True, False])
def test_reads_nothing_outside(case, contiguous, backend):
    """Inputs that are windows in a buffer of NaN give the results of plain ones."""
    inputs = case.make(9, 10, 1.0, torch.float64)
    windows = [poisoned(tensor, contiguous) for tensor in inputs]
    assert_same(run(case, windows, 1.0, backend), run(case, inputs, 1.0, backend), 0.0)


@by_backend
@by_case
def test_time_coordinate_is_not_trusted(case, backend):
    """A wrong time coordinate changes nothing, and has no gradient (but egrad2rgrad reads g0)."""
    inputs = case.make(9, 10, 1.0, torch.float64)
    others = [tensor.clone() for tensor in inputs]
    for tensor in others[: 1 if case.name == "egrad2rgrad" else None]:
        tensor[:, 0] = 1e3
    if case.name == "egrad2rgrad":
        others[1] = inputs[1]
    found = run(case, others, 1.0, backend)
    assert_same(found, run(case, inputs, 1.0, backend), 0.0)
    gradients = found[1][:1] if case.name == "egrad2rgrad" else found[1]
    assert all((gradient[:, 0] == 0).all() for gradient in gradients)


@by_backend
@by_case
def test_gradcheck(case, backend):
    inputs = [tensor.requires_grad_() for tensor in case.make(7, 4, 0.7, torch.float64)]
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(lambda *xs: case.run(*xs, c=0.7), inputs)


@by_native
@by_case
def test_same_bits_for_any_number_of_threads(case, backend):
    inputs = case.make(1500 if backend == "cpu" else 40, 65, 1.0, torch.float32)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            found.append(run(case, inputs, 1.0, backend))
        finally:
            torch.set_num_threads(threads)
    if case.name == "margin_ranking_loss":  # the sum over rows is torch's
        found = [(result[0][:0], result[1]) for result in found]
    assert_same(found[1], found[0], 0.0)
    assert_same(found[2], found[0], 0.0)


@by_backend
@by_case
def test_compiles_into_one_graph(case, backend):
    inputs = case.make(7, 6, 0.7, torch.float64)
    torch._dynamo.reset()
    with ops.use_backend(backend):
        compiled = torch.compile(
            lambda *xs: case.run(*xs, c=0.7), fullgraph=True, backend="aot_eager"
        )
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        found = compiled(*leaves)
        found = found if isinstance(found, tuple) else (found,)
        gradients = torch.autograd.grad([out.sum() for out in found], leaves)
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        expected = case.run(*leaves, c=0.7)
        expected = expected if isinstance(expected, tuple) else (expected,)
        wanted = torch.autograd.grad([out.sum() for out in expected], leaves)
    assert_same((found, gradients), (expected, wanted), 0.0)


def test_compiles_with_inductor():
    def layer(u, v):
        return ops.distance(ops.expmap0(2 * u), ops.expmap0(v)).square().mean()

    u, v = tangents(7, 6, torch.float32).requires_grad_(), tangents(7, 6, torch.float32, seed=1)
    compiled = torch.compile(layer, fullgraph=True)(u, v)
    (found,) = torch.autograd.grad(compiled, u)
    (expected,) = torch.autograd.grad(layer(u, v), u)
    torch.testing.assert_close(found, expected)


def calls():
    """(name, arguments) of one dispatcher call of every op, backward ops included."""
    recorded, original = [], backend_module.call

    def spy(name, *args):
        recorded.append((name, args))
        return original(name, *args)

    backend_module.call = spy
    try:
        for case in CASES:
            case.run(*case.make(7, 6, 0.7, torch.float64), c=0.7)
        graph = small_graph()
        x, y = points(5, 6, 1.0), points(4, 6, 1.0, seed=1)
        ops.topk(x, y, 2, exclude=graph.user_items)
        ops.topk(x, y, 2)
        ops.sample_negatives(torch.arange(5), graph.user_items, 3, seed=1)
        moment, second = ops.project_tangent(x, vectors(5, 6)), torch.ones(5, 1, dtype=x.dtype)
        ops.riemannian_sgd_step_(x.clone(), vectors(5, 6), None, lr=0.1)
        ops.riemannian_sgd_step_(x.clone(), vectors(5, 6), moment.clone(), lr=0.1, momentum=0.9)
        ops.riemannian_adam_step_(x.clone(), vectors(5, 6), moment, second, step=1, lr=0.1)
    finally:
        backend_module.call = original
    backward = []
    for name, args in recorded:
        if not hasattr(torch.ops.hdrm, f"{name}_backward"):
            continue
        with ops.use_backend("reference"):
            results = getattr(torch.ops.hdrm_reference, name)(*args)
        results = results if isinstance(results, tuple) else (results,)
        grads = map(torch.ones_like, results)
        backward.append(
            (f"{name}_backward", tuple(backend_module.backward_arguments(name, grads, args)))
        )
    return recorded + backward


CALLS = calls()


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("index", range(len(CALLS)), ids=lambda k: CALLS[k][0])
def test_opcheck(index, namespace):
    name, args = CALLS[index]
    leaves = tuple(
        arg.clone().requires_grad_()
        if isinstance(arg, torch.Tensor)
        and arg.is_floating_point()
        and not name.endswith("_")
        and not name.endswith("backward")
        and name != "topk"
        else arg
        for arg in args
    )
    torch.library.opcheck(getattr(getattr(torch.ops, namespace), name).default, leaves)


def test_every_op_is_covered():
    """An op that is declared but missing from the table of cases fails here."""
    declared = set(torch.ops.hdrm) | {
        key.split("::")[1].split(".")[0]
        for key in torch._C._dispatch_get_all_op_names()
        if key.startswith("hdrm::")
    }
    declared = {name for name in declared if not name.startswith("_")}
    assert declared == {name for name, _ in CALLS}


def test_every_op_has_a_native_kernel():
    if "cpu" not in BACKENDS:
        pytest.skip("the compiled module is not built here")
    for name, _ in CALLS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hdrm::{name}", "CPU"), name


def test_every_op_has_a_cuda_kernel():
    if "cuda" not in BACKENDS:
        pytest.skip("CUDA kernels run here neither on a device nor in the emulator")
    key = "CUDA" if torch.cuda.is_available() else "CPU"
    for name, _ in CALLS:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"hdrm_cuda::{name}", key), name


class TestBackendChoice:
    def test_unknown_backend_lists_what_there_is(self):
        with pytest.raises(RuntimeError, match=r"'cublas'; there are:\n  reference: available"):
            with ops.use_backend("cublas"):
                pass

    def test_unavailable_backend_says_why(self, monkeypatch):
        """CUDA kernels that were not built, with the build's reason; or a device that is missing."""
        module = SimpleNamespace(build_report=lambda: {"cuda": "not built: no nvcc"})
        monkeypatch.setattr(backend_module.native, "load", lambda: module)
        monkeypatch.setattr(backend_module, "_COMPILED", True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        for keys, reason in (([], "not built: no nvcc"), (["CUDA"], "there is no CUDA device")):
            monkeypatch.setattr(
                backend_module, "_has_kernel", lambda op, key, keys=keys: key in keys
            )
            with pytest.raises(RuntimeError, match=f"\n  cuda: {reason};\n"):
                with ops.use_backend("cuda"):
                    pass

    def test_choice_ends_with_the_block(self):
        with pytest.raises(KeyError), ops.use_backend("reference"):
            raise KeyError
        assert backend_module._forced is None

    def test_tensor_on_another_device_is_refused(self):
        if "cpu" not in BACKENDS:
            pytest.skip("the compiled module is not built here")
        with ops.use_backend("cpu"), pytest.raises(RuntimeError, match="a tensor is on meta"):
            ops.expmap0(torch.zeros(2, 3, device="meta"))


class TestBadInput:
    x, y = points(3, 4, 1.0), points(3, 5, 1.0)

    def test_width(self):
        with pytest.raises(ValueError, match=r"same width d\+1, got \(3, 4\) and \(3, 5\)"):
            ops.distance(self.x, self.y)

    @pytest.mark.parametrize("c", [0.0, -1.0, float("nan"), float("inf")])
    def test_curvature(self, c):
        with pytest.raises(ValueError, match="c must be positive and finite"):
            ops.expmap0(self.x, c=c)

    def test_curvature_as_tensor(self):
        with pytest.raises(TypeError, match="c must be a Python number"):
            ops.expmap0(self.x, c=torch.tensor(1.0))

    @pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.bfloat16, torch.complex64])
    def test_dtype(self, dtype):
        with pytest.raises(TypeError, match="must be float32 or float64, got"):
            ops.logmap0(torch.ones(2, 3, dtype=dtype))

    def test_mixed_dtypes(self):
        with pytest.raises(TypeError, match="x is torch.float64, y is torch.float32"):
            ops.distance(self.x, self.x.float())

    def test_not_a_tensor(self):
        with pytest.raises(TypeError, match="u must be a tensor, got list"):
            ops.expmap0([0.0, 1.0])
        with pytest.raises(TypeError, match="users must be a tensor, got list"):
            ops.topk([[1.0, 0.0]], self.x, 1)

    @pytest.mark.parametrize("shape", [(), (3, 1), (3, 0)])
    def test_rows_too_short(self, shape):
        with pytest.raises(ValueError, match=r"must have shape \(..., d\+1\)"):
            ops.expmap0(torch.zeros(shape))

    def test_shapes_that_do_not_broadcast(self):
        with pytest.raises(ValueError, match=r"do not broadcast: x \(3, 4\), y \(2, 4\)"):
            ops.distance(self.x, points(2, 4, 1.0))

    def test_devices(self):
        with pytest.raises(ValueError, match="x is on cpu, y on meta"):
            ops.distance(self.x, self.x.to("meta"))

    def test_broadcasting_is_accepted(self):
        x, y = points(3, 4, 1.0)[:, None], points(5, 4, 1.0, seed=1)
        assert ops.distance(x, y).shape == (3, 5)
        assert ops.distance(x[2, 0], y[4]) == ops.distance(x, y)[2, 4]

    def test_propagate(self):
        graph = small_graph()
        with pytest.raises(ValueError, match=r"one row per node, 9 \(5 users \+ 4 items\)"):
            ops.propagate(points(8, 4, 1.0), graph, 2)
        with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
            ops.propagate(points(9, 4, 1.0), graph, 0)
        with pytest.raises(ValueError, match="space must be 'tangent' or 'lorentz', got 'ball'"):
            ops.propagate(points(9, 4, 1.0), graph, 1, space="ball")
        with pytest.raises(TypeError, match="must be a BipartiteGraph, got Tensor"):
            ops.propagate(points(9, 4, 1.0), torch.eye(9), 1)
        with pytest.raises(TypeError, match="must be torch.float64 where x is torch.float64, got"):
            ops.propagate(points(9, 4, 1.0), graph, 1, work_dtype=torch.bfloat16)
        x = points(9, 4, 1.0, torch.float32)
        with pytest.raises(TypeError, match="float32 or torch.bfloat16 where .*, got .*.float16"):
            ops.propagate(x, graph, 1, work_dtype=torch.float16)
        same = ops.propagate(x, graph, 2, work_dtype=torch.float32)
        assert torch.equal(same, ops.propagate(x, graph, 2))

    def test_optimiser_step(self):
        x = points(3, 4, 1.0)
        with pytest.raises(ValueError, match="updated in place and must be contiguous"):
            ops.riemannian_sgd_step_(points(4, 3, 1.0).T, vectors(3, 4), None, lr=0.1)
        with pytest.raises(ValueError, match=r"grad must have x's shape \(3, 4\), got \(2, 4\)"):
            ops.riemannian_sgd_step_(x, vectors(2, 4), None, lr=0.1)
        with pytest.raises(ValueError, match=r"exp_avg_sq must be contiguous of shape \(3, 1\)"):
            ops.riemannian_adam_step_(x, x, x, x, step=1, lr=0.1)

    def test_margin(self):
        with pytest.raises(ValueError, match="margin must be at least 0, got -1"):
            ops.margin_ranking_loss(self.x, self.x, self.x, -1)
        with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', got 'none'"):
            ops.margin_ranking_loss(self.x, self.x, self.x, 1, reduction="none")


def test_generator_is_untouched_by_a_given_seed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    ops.isotropic_noise(
        torch.ones(2, 3),
        torch.zeros(2, dtype=torch.int64),
        torch.tensor([0.5]),
        seed=generator(1).initial_seed(),
    )
    assert torch.equal(before, torch.get_rng_state())
