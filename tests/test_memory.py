"""Memory of large results: used again, never shared, given back when asked."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch

import hdrm
from hdrm import memory, ops

ROWS, MIB = 20_000, 2**20  # 20,000 × 64 floats are 4.9 MiB

needs_native = pytest.mark.skipif(
    hdrm.native.load() is None, reason="memory is kept by the compiled kernels"
)


@pytest.fixture(autouse=True)
def nothing_kept_before():
    memory.keep(0)
    memory.keep(64 * MIB)
    yield
    memory.keep(memory.kept_by_default())


def tangents(seed: int = 0, rows: int = ROWS) -> torch.Tensor:
    u = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)) / 8
    u[:, 0] = 0
    return u


@needs_native
def test_a_freed_result_is_the_next_ones_memory():
    u = tangents()
    first = ops.expmap0(u)
    place = first.data_ptr()
    del first
    assert ops.expmap0(u).data_ptr() == place
    assert ops.logmap0(u[: ROWS - 1]).data_ptr() == place  # a little smaller
    # Too large for it. Not by its place: the block freed for this one may lie where this one comes to.
    larger = u[: ROWS // 2].repeat(4, 1)
    ops.expmap0(larger)
    assert memory.keep(0) >= larger.nbytes
    assert memory.keep(0) == 0


@needs_native
def test_results_in_use_do_not_share():
    inputs = [tangents(seed) for seed in range(4)]
    for _ in range(3):
        found = [ops.expmap0(u) for u in inputs]
        assert len({y.data_ptr() for y in found}) == len(found)
        for u, y in zip(inputs, found):
            torch.testing.assert_close(ops.logmap0(y), u, atol=1e-5, rtol=1e-4)


@needs_native
def test_no_more_is_kept_than_allowed():
    memory.keep(12 * MIB)
    found = [ops.expmap0(tangents()) for _ in range(5)]  # 6 MiB each, in pages of 2 MiB
    del found
    assert 0 < memory.keep(0) <= 12 * MIB
    memory.keep(MIB)
    ops.expmap0(tangents())
    assert memory.keep(0) == 0  # a block larger than all that may be kept


@needs_native
def test_used_and_unused_memory_do_not_exceed_what_was_used_at_once():
    small, large = tangents(), tangents(rows=2 * ROWS)
    first, second = ops.expmap0(small), ops.expmap0(small)  # 6 MiB each, in pages of 2 MiB
    del first, second
    grown = ops.expmap0(large)  # 10 MiB: both have to go
    assert memory.keep(0) == 0
    del grown


@needs_native
def test_threads_take_and_give_back_at_once():
    u, wrong = tangents(), []
    expected = ops.expmap0(u)

    def work():
        for _ in range(20):
            if not torch.equal(ops.expmap0(u), expected):
                wrong.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_large_result_is_a_tensor_like_others():
    u = tangents().requires_grad_()
    y = ops.expmap0(u)
    y.square().sum().backward()
    assert u.grad.shape == u.shape and u.grad.is_contiguous() and y.is_contiguous()
    plain = y.detach()
    assert torch.equal(pickle.loads(pickle.dumps(plain)), plain)
    assert torch.equal(copy.deepcopy(plain), plain)
    array = plain.numpy()
    value = float(array[5, 7])
    del y, plain
    ops.expmap0(tangents(1))  # would take the memory if the array did not hold it
    assert float(array[5, 7]) == value
    half = ops.directional_noise(
        tangents(2, 2 * ROWS).bfloat16(), torch.zeros(2 * ROWS, dtype=torch.int64),
        torch.full((1,), 0.5, dtype=torch.float64), seed=1,
    )  # fmt: skip
    assert half.dtype == torch.bfloat16 and half.shape == (2 * ROWS, 64)


SCRIPT = """
import torch
from hdrm import memory, ops
ops.expmap0(torch.zeros(20_000, 64))
print(memory.keep(0))
"""


def run(**environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@needs_native
def test_the_environment_says_how_much_is_kept():
    assert int(run().stdout) > 0
    assert int(run(HDRM_KEPT_MEMORY="0").stdout) == 0
    refused = run(HDRM_KEPT_MEMORY="lots")
    assert "HDRM_KEPT_MEMORY: expected an amount of memory such as 8GiB" in refused.stderr


def test_a_negative_amount_is_refused():
    with pytest.raises(ValueError, match="num_bytes must not be negative, got -1"):
        memory.keep(-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8GiB", 8 * 2**30),
        ("500MB", 5 * 10**8),
        ("1e9", 10**9),
        ("1.5 kib", 1536),
        ("7", 7),
        ("0", 0),
    ],
)
def test_amounts_of_memory(text, expected):
    assert memory.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "-1GB", "8 GiBs", "1e99", "nan", "..5"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ValueError, match="expected an amount of memory such as 8GiB"):
        memory.parse_bytes(text)
