"""What only a device can show: every op there, in CUDA graphs, on other streams.

The op suite itself runs on the device as well where there is one: the tests of a GPU backend are
marked ``gpu`` by tests/conftest.py.
"""

from __future__ import annotations

import pytest
import torch
from ops_cases import BACKENDS, CASES, TABLE_CASES, points, small_graph, vectors
from test_ops import assert_same, run

from hdrm import ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="needs a CUDA device; the interpreter and the emulator run the same kernels here",
    ),
]
GPU_BACKENDS = [name for name in ("triton", "cuda") if name in BACKENDS]
by_gpu_backend = pytest.mark.parametrize("backend", GPU_BACKENDS or ["none"])


@by_gpu_backend
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("width", [64, 65, 512, 8192])
def test_float32_equals_reference(case, width, backend):
    rows = 257 if case in TABLE_CASES else 1000
    single = [tensor.float() for tensor in case.make(rows, width, 0.7, torch.float64)]
    expected = run(case, [tensor.double() for tensor in single], 0.7, "reference")
    assert_same(run(case, single, 0.7, backend), expected, 5e-6)


@by_gpu_backend
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_again_and_on_another_stream(case, backend):
    inputs = case.make(300, 65, 0.7, torch.float32)
    first = run(case, inputs, 0.7, backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        second = run(case, inputs, 0.7, backend)
    torch.cuda.current_stream().wait_stream(stream)
    assert_same(second, first, 0.0)


@pytest.mark.skipif("cuda" not in BACKENDS, reason="hdrm was built without CUDA kernels")
def test_tensors_on_two_devices_are_refused():
    x = torch.ones(3, 4, device="cuda")
    with pytest.raises(RuntimeError, match="all tensors of an op must be on one device"):
        torch.ops.hdrm_cuda.expmap(x, x.cpu(), 1.0)


@pytest.mark.skipif("cuda" not in BACKENDS, reason="hdrm was built without CUDA kernels")
def test_the_automatic_choice_is_the_compiled_kernel():
    x = points(300, 65, 0.7, torch.float32).cuda()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as record:
        ops.logmap0(x)
        torch.cuda.synchronize()
    assert any("held_rows" in event.name for event in record.events())


def _graph_of(call):
    """The call captured in a CUDA graph, after it has run once (kernels are tuned and loaded)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()
    return graph, results


@by_gpu_backend
@pytest.mark.parametrize("case", CASES, ids=str)
def test_captured_in_a_graph(case, backend):
    inputs = case.make(40, 64, 0.7, torch.float32)
    static = [torch.zeros_like(tensor) for tensor in inputs]
    graph, (results, gradients) = _graph_of(lambda: run(case, static, 0.7, backend))
    for place, tensor in zip(static, inputs):
        place.copy_(tensor)
    graph.replay()
    assert_same((results, gradients), run(case, inputs, 0.7, backend), 0.0)


@by_gpu_backend
def test_ranking_and_optimiser_in_a_graph(backend):
    users, items = points(5, 64, 1.0, torch.float32), points(4, 64, 1.0, torch.float32, seed=1)
    seen, grad = small_graph().user_items, vectors(5, 64, torch.float32)
    table, moment, second = users.clone(), torch.zeros_like(users), users.new_zeros(5, 1)

    def call():
        with ops.use_backend(backend):
            ops.riemannian_adam_step_(table, grad, moment, second, step=1, lr=0.1)
            draws = ops.sample_negatives(torch.arange(5), seen, 3, seed=1)
            return draws, *ops.topk(users, items, 2, exclude=seen)

    graph, captured = _graph_of(call)
    graph.replay()
    torch.cuda.synchronize()
    with ops.use_backend("reference"):
        draws = ops.sample_negatives(torch.arange(5), seen, 3, seed=1)
        distances, index = ops.topk(users, items, 2, exclude=seen)
    assert torch.equal(captured[0], draws) and torch.equal(captured[2], index)
    torch.testing.assert_close(captured[1], distances)
