"""Message passing against loops over edges, dense matrices and its own linearity."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ops_cases import BACKENDS, CURVATURES, generator, points, small_graph, tangents, vectors

from hdrm import BipartiteGraph, ops

by_backend = pytest.mark.parametrize("backend", BACKENDS)
OPTIONS = [
    {"normalization": norm, "combine": combine, "space": space}
    for norm in ("row", "symmetric")
    for combine in ("sum", "mean")
    for space in ("lorentz", "tangent")
]


def naive(x, graph, layers, c=1.0, space="lorentz", normalization="row", combine="sum"):
    """Node by node, edge by edge."""
    with ops.use_backend("reference"):
        h = ops.logmap0(x, c=c) if space == "lorentz" else x * (torch.arange(x.shape[1]) > 0)
    degree = graph.rowptr.diff().tolist()
    rounds = [h]
    for _ in range(layers):
        new = torch.zeros_like(h)
        for i in range(graph.num_nodes):
            for j in graph.col[graph.rowptr[i] : graph.rowptr[i + 1]].tolist():
                if normalization == "row":
                    new[i] += h[j] / (degree[i] + 1)
                else:
                    new[i] += h[j] / (degree[i] * degree[j]) ** 0.5
            if normalization == "row":
                new[i] += h[i] / (degree[i] + 1)
        rounds.append(new)
        h = new
    return sum(rounds[1:]) if combine == "sum" else sum(rounds) / len(rounds)


@by_backend
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_against_a_loop_over_edges(backend, options, layers):
    graph = small_graph(7, 6, 20)
    x = points(13, 5, 0.5)
    with ops.use_backend(backend):
        found = ops.propagate(x, graph, layers, c=0.5, **options)
    torch.testing.assert_close(found, naive(x, graph, layers, 0.5, **options))


def test_degree_zero_keeps_its_own_value():
    graph = small_graph()
    x = points(9, 5, 1.0)
    found = ops.propagate(x, graph, 1)
    for node in (4, 8):  # the last user and the last item have no edge
        assert graph.rowptr[node] == graph.rowptr[node + 1]
        torch.testing.assert_close(found[node], ops.logmap0(x[node]))


@by_backend
@pytest.mark.parametrize(("users", "items"), [(0, 0), (1, 0), (0, 3), (1, 1), (3, 2)])
def test_graphs_without_edges(backend, users, items):
    empty = torch.zeros(0, dtype=torch.int64)
    graph = BipartiteGraph.from_interactions(empty, empty, users, items)
    x = points(users + items, 4, 1.0)
    with ops.use_backend(backend):
        torch.testing.assert_close(ops.propagate(x, graph, 2), 2 * ops.logmap0(x))
        x, z = x.float(), ops.logmap0(x).float()
        once = z.bfloat16().float()
        narrow = ops.propagate(x, graph, 2, work_dtype=torch.bfloat16)
        torch.testing.assert_close(narrow, (once + z).bfloat16().float(), rtol=2**-8, atol=0)


def heavy_graph(backend="cpu"):
    """A user with more items than a worker sums in one go, among light ones."""
    rng = np.random.default_rng(0)
    size = 900 if backend == "triton" else 9000  # the interpreter is slow, its pieces shorter
    users = np.concatenate([np.full(size, 3), rng.integers(0, 6, size // 2)])
    items = np.concatenate([np.arange(size), rng.integers(0, size, size // 2)])
    return BipartiteGraph.from_interactions(users, items, 7, size)


@by_backend
@pytest.mark.parametrize("width", [4, 24, 65, 100])
def test_heavy_rows(backend, width):
    graph = heavy_graph(backend)
    z = tangents(graph.num_nodes, width).requires_grad_()
    with ops.use_backend(backend):
        found = ops.propagate(z, graph, 2, space="tangent")
        (gradient,) = torch.autograd.grad(found, z, vectors(graph.num_nodes, width))
    with ops.use_backend("reference"):
        expected = ops.propagate(z, graph, 2, space="tangent")
        (wanted,) = torch.autograd.grad(expected, z, vectors(graph.num_nodes, width))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, wanted)


@by_backend
def test_heavy_rows_are_summed_accurately(backend):
    """float32 sums of thousands of neighbours stay near the float64 result."""
    graph = heavy_graph(backend)
    z = tangents(graph.num_nodes, 8, radius=1.0) + 1.0
    with ops.use_backend("reference"):
        exact = ops.propagate(z, graph, 1, space="tangent")
    with ops.use_backend(backend):
        found = ops.propagate(z.float(), graph, 1, space="tangent")
    assert (found - exact).abs().max() / exact.abs().max() < 2e-6


@pytest.mark.parametrize("work_dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_heavy_rows_have_the_same_bits_for_any_number_of_threads(threads, work_dtype):
    graph, before = heavy_graph(), torch.get_num_threads()
    z = tangents(graph.num_nodes, 33, torch.float32)
    expected = ops.propagate(z, graph, 3, space="tangent", work_dtype=work_dtype)
    torch.set_num_threads(threads)
    try:
        found = ops.propagate(z, graph, 3, space="tangent", work_dtype=work_dtype)
        assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def assert_like_reference(x, graph, layers, backend, **options):
    x, g = x.requires_grad_(), vectors(*x.shape, seed=3)
    results = []
    for name in (backend, "reference"):
        with ops.use_backend(name):
            found = ops.propagate(x, graph, layers, **options)
            results.append((found, *torch.autograd.grad(found, x, g)))
    torch.testing.assert_close(*results)


@by_backend
def test_rows_that_end_where_pieces_do(backend):
    """Degrees around the length at which rows are cut, their edges starting anywhere."""
    n = 256 if backend == "triton" else 4096
    degrees = [0, n - 1, n, n + 1, 1, 2 * n, 3, 2 * n - 1, n, 0]
    users = np.repeat(np.arange(len(degrees)), degrees)
    items = np.concatenate([np.arange(degree) for degree in degrees])
    graph = BipartiteGraph.from_interactions(users, items, len(degrees), 2 * n)
    assert_like_reference(tangents(graph.num_nodes, 3), graph, 2, backend, space="tangent")


@by_backend
@pytest.mark.parametrize("degree", [4, 300, 5000])
def test_wide_rows(backend, degree):
    """Rows of more than one chunk, light and heavy."""
    if backend == "triton":
        degree = min(degree, 600)
    users = torch.cat([torch.zeros(degree, dtype=torch.int64), torch.arange(1, 3)])
    items = torch.cat([torch.zeros(degree, dtype=torch.int64), torch.arange(2)])
    graph = BipartiteGraph.from_interactions(users, items, duplicates="keep")
    x = points(graph.num_nodes, 2100, 0.7)
    assert_like_reference(x, graph, 2, backend, c=0.7, combine="mean")


@by_backend
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_the_backward_is_the_transpose(backend, options):
    """⟨g, J·t⟩ = ⟨Jᵀg, t⟩ in tangent space, where the op is linear."""
    if options["space"] == "lorentz":
        options = options | {"space": "tangent"}
    graph = small_graph(30, 20, 150)
    z, t, g = (vectors(50, 6, seed=k) for k in range(3))
    t[:, 0] = g[:, 0] = 0
    z.requires_grad_()
    with ops.use_backend(backend):
        (transposed,) = torch.autograd.grad(ops.propagate(z, graph, 3, **options), z, g)
        forward = ops.propagate(t, graph, 3, **options)
    torch.testing.assert_close((g * forward).sum(), (transposed * t).sum())


@by_backend
@pytest.mark.parametrize("c", CURVATURES)
def test_only_the_input_is_saved(backend, c):
    graph = small_graph()
    x = points(9, 5, c).requires_grad_()
    saved = []
    with (
        ops.use_backend(backend),
        torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t),
    ):
        ops.propagate(x, graph, 3, c=c)
    floats = [tensor for tensor in saved if tensor.is_floating_point()]
    assert [tensor.data_ptr() for tensor in floats] == [x.data_ptr()]


@by_backend
def test_duplicate_edges(backend):
    users, items = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    collapsed = BipartiteGraph.from_interactions(users, items)
    kept = BipartiteGraph.from_interactions(users, items, duplicates="keep")
    x = points(4, 5, 1.0)
    with ops.use_backend(backend):
        z = ops.logmap0(x)
        found = ops.propagate(x, collapsed, 1)
        torch.testing.assert_close(found[0], (z[0] + z[2] + z[3]) / 3)
        found = ops.propagate(x, kept, 1)
        torch.testing.assert_close(found[0], (z[0] + 2 * z[2] + z[3]) / 4)


def test_float32_gradient_through_logmap0():
    graph = small_graph(40, 30, 300)
    exact = points(70, 16, 1.0, radius=3.0, seed=5).requires_grad_()
    single = exact.detach().float().requires_grad_()
    g = torch.randn(70, 16, generator=generator(1), dtype=torch.float64)
    (wanted,) = torch.autograd.grad(ops.propagate(exact, graph, 3), exact, g)
    (found,) = torch.autograd.grad(ops.propagate(single, graph, 3), single, g.float())
    assert (found - wanted).norm() < 1e-6 * wanted.norm()


@by_backend
def test_float32_gradient_far_out(backend):
    """logmap0's gradient at |xs| = 1e15, where its slope alone underflows, along and across xs."""
    graph = small_graph()
    exact = torch.nn.functional.normalize(vectors(9, 5), dim=1) * 1e15
    single, g = exact.float().requires_grad_(), vectors(9, 5, seed=1)
    wide = single.detach().double().requires_grad_()
    g = g + 3 * wide.detach() / 1e15
    with ops.use_backend("reference"):
        (wanted,) = torch.autograd.grad(ops.propagate(wide, graph, 2), wide, g)
    with ops.use_backend(backend):
        (found,) = torch.autograd.grad(ops.propagate(single, graph, 2), single, g.float())
    error = (found.double() - wanted).norm(dim=1) / wanted.norm(dim=1)
    assert error.max() < 1e-5


# ---- work tables of bfloat16

OFF_BY_A_ROUNDING = 2.0**-8  # of a number that ends up on the other side of a tie


def value_and_gradient(x, graph, layers, backend, **options):
    x = x.detach().requires_grad_()
    g = vectors(*x.shape, x.dtype, seed=3)
    with ops.use_backend(backend):
        found = ops.propagate(x, graph, layers, **options)
        return found, *torch.autograd.grad(found, x, g)


def assert_rounded_like_reference(x, graph, layers, backend, **options):
    """Up to numbers so close to a tie that the arithmetic decides which way they are rounded."""
    options["work_dtype"] = torch.bfloat16
    for found, expected in zip(
        value_and_gradient(x, graph, layers, backend, **options),
        value_and_gradient(x, graph, layers, "reference", **options),
    ):
        assert found.dtype == x.dtype and (found[:, 0] == 0).all()
        error, size = (found - expected).abs().double(), expected.abs().max()
        assert error.max() <= OFF_BY_A_ROUNDING * size
        if x.dtype == torch.float32:  # 16-bit numbers make for ties
            assert (error > 2e-6 * size).double().mean() < 0.02


@by_backend
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_narrow_tables_are_rounded_where_the_reference_rounds(backend, options, layers):
    graph = small_graph(30, 20, 150)
    for width, dtype in itertools.product((5, 72), (torch.float32, torch.bfloat16, torch.float16)):
        if options["space"] == "tangent":
            x = tangents(50, width, dtype)
        elif dtype == torch.float32:
            x = points(50, width, 0.7, dtype)
        else:
            continue
        assert_rounded_like_reference(x, graph, layers, backend, c=0.7, **options)


@by_backend
@pytest.mark.parametrize("width", [4, 100])
def test_narrow_tables_of_heavy_rows(backend, width):
    graph = heavy_graph(backend)
    z = tangents(graph.num_nodes, width, torch.float32)
    assert_rounded_like_reference(z, graph, 2, backend, space="tangent")


@by_backend
@pytest.mark.parametrize("degree", [4, 300])
def test_narrow_tables_of_wide_rows(backend, degree):
    users = torch.cat([torch.zeros(degree, dtype=torch.int64), torch.arange(1, 3)])
    items = torch.cat([torch.zeros(degree, dtype=torch.int64), torch.arange(2)])
    graph = BipartiteGraph.from_interactions(users, items, duplicates="keep")
    x = points(graph.num_nodes, 2100, 0.7, torch.float32)
    assert_rounded_like_reference(x, graph, 2, backend, c=0.7, combine="mean")


@by_backend
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o.values()))
def test_narrow_tables_are_close_to_float64(backend, options):
    """Values and gradients, of which the latter are those of unrounded rounds."""
    graph = small_graph(30, 20, 150)
    x = points(50, 24, 0.7, torch.float32)
    narrow = value_and_gradient(x, graph, 3, backend, c=0.7, work_dtype=torch.bfloat16, **options)
    exact = value_and_gradient(x.double(), graph, 3, "reference", c=0.7, **options)
    for found, expected in zip(narrow, exact):
        error = (found - expected).norm() / expected.norm()
        assert 1e-5 < error < 2e-3  # more than float32's, less than a rounding of each number


@pytest.mark.parametrize("namespace", ["hdrm", "hdrm_reference"])
@pytest.mark.parametrize("layers", [1, 3])
def test_opcheck_of_narrow_tables(namespace, layers):
    graph, library = small_graph(), getattr(torch.ops, namespace)
    x = points(9, 6, 1.0, torch.float32)
    arguments = (graph.rowptr, graph.col, layers, 1.0, True, False, True, True)
    torch.library.opcheck(library.propagate.default, (x.clone().requires_grad_(), *arguments))
    torch.library.opcheck(library.propagate_backward.default, (x, x, *arguments))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the compiled module is not built here")
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_tables_take_half_a_table_of_float32(layers, dtype):
    """What either direction allocates besides its result and a number for each node."""
    graph, (nodes, width) = small_graph(300, 200, 1500), (500, 24)
    z = tangents(nodes, width, dtype)
    arguments = (z, graph.rowptr, graph.col, layers, 1.0, False, False, False, True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiled:
        torch.ops.hdrm.propagate(*arguments)
        torch.ops.hdrm.propagate_backward(z, *arguments)
    taken = sum(max(0, event.self_cpu_memory_usage) for event in profiled.events())
    assert taken / 2 - z.nbytes - nodes * 4 == nodes * width * 2


by_triton = pytest.mark.skipif("triton" not in BACKENDS, reason="Triton cannot run here")


@by_triton
def test_columns_of_64_bits():
    graph, z = small_graph(), tangents(9, 5)
    narrow, wide = (
        torch.ops.hdrm_triton.propagate(z, graph.rowptr, col, 2, 1.0, False, True, True, False)
        for col in (graph.col, graph.col.long())
    )
    assert torch.equal(narrow, wide)


@by_triton
@pytest.mark.parametrize("edges", [0, 100, 5000])
def test_launches_need_no_data(edges):
    """Fake tensors have none to read: nothing waits for the device, a CUDA graph may capture it."""
    from hdrm.kernels import launch, message_passing

    with torch._subclasses.FakeTensorMode(), launch.recording() as launches:
        x, rowptr = torch.empty(9, 5), torch.empty(10, dtype=torch.int64)
        graph = rowptr, torch.empty(edges, dtype=torch.int32)
        arguments = (x, *graph, 2, 1.0, True, False, True, False)
        message_passing.propagate(*arguments)
        message_passing.propagate_backward(x, *arguments)
    tensors = [one for run in launches for one in run.arguments if isinstance(one, torch.Tensor)]
    assert max(one.shape[0] for one in tensors if one.dim() == 2) == 9  # no table of edges
