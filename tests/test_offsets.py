"""Tables of more than 2³¹ bytes, and of more than 2³¹ elements that occupy no memory."""

from __future__ import annotations

import math
import mmap
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from ops_cases import BACKENDS, generator

from hdrm import CSR, BipartiteGraph, ops

pytestmark = pytest.mark.skipif(
    "cpu" not in BACKENDS, reason="the compiled module is not built here"
)
ROOT = Path(__file__).resolve().parent.parent
KERNELS = ("kept_memory", "message_passing", "nearest", "noising", "normals", "ranking",
           "riemannian_step")  # fmt: skip
MAP_NORESERVE = 0x4000  # Linux; not in every Python's mmap


def untouched(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Zeros whose pages take memory only once they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    region = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    region.madvise(mmap.MADV_HUGEPAGE)  # fewer page faults when all of it is read
    return torch.frombuffer(region, dtype=dtype).view(shape)


def with_last_rows(table: torch.Tensor, count: int = 4) -> torch.Tensor:
    table[-count:] = torch.randn(count, table.shape[1], generator=generator())
    return table


def test_kernels_beyond_2_31_elements(tmp_path):
    """Every kind of loop in csrc/cpu, at the end of tables that are address ranges only."""
    driver = tmp_path / "offsets"
    command = [
        *shlex.split(os.environ.get("CXX", "g++")),
        *("-std=c++20", "-O0", "-fopenmp-simd", f"-I{ROOT / 'csrc'}"),
        *(str(ROOT / "csrc" / "cpu" / f"{name}.cpp") for name in KERNELS),
        *(str(ROOT / "tests" / "offsets.cpp"), "-o", str(driver)),
    ]
    subprocess.run(command, check=True)
    done = subprocess.run([driver], capture_output=True, text=True, check=False)
    # A wrapped index ends the process at the kernel that is named last.
    assert done.returncode == 0, f"exit code {done.returncode} after\n{done.stdout}{done.stderr}"
    assert done.stdout.count(": right\n") == len(done.stdout.splitlines()) > 10


def test_row_op_beyond_2_31_elements():
    x = with_last_rows(untouched(2**31 // 65 + 1000, 65))
    assert x.numel() > 2**31
    found = ops.distance(x[:-1], x[1:])
    expected = ops.distance(x[-6:-1], x[-5:])
    assert torch.equal(found[-5:], expected) and (expected[1:] > 0).all()
    assert not found[:-4].any()


def test_column_statistics_beyond_2_31_elements():
    z = with_last_rows(untouched(2**31 // 65 + 1000, 65))
    mean, std = ops.column_statistics(z)
    tail, rows = z[-4:, 1:].double(), z.shape[0]
    expected = tail.sum(0) / rows
    torch.testing.assert_close(mean[1:].double(), expected, rtol=1e-5, atol=1e-13)
    variance = (tail.square().sum(0) - rows * expected.square()) / (rows - 1)
    torch.testing.assert_close(std[1:].double(), variance.sqrt(), rtol=1e-5, atol=0)


def test_sample_negatives_beyond_2_31_entries():
    """Of ten items the last user has seen all but 4 and 7."""
    seen = torch.tensor([0, 1, 2, 3, 5, 6, 8, 9], dtype=torch.int32)
    col = untouched(2**31 + len(seen), dtype=torch.int32)
    col[-len(seen) :] = seen
    rowptr = torch.tensor([0, 0, 2**31, 2**31 + len(seen)])
    drawn = ops.sample_negatives(torch.tensor([2, 0]), CSR(rowptr, col, 10), 200, seed=1)
    assert set(drawn[0].tolist()) == {4, 7} and set(drawn[1].tolist()) == set(range(10))


def test_row_op_beyond_2_31_bytes():
    u = with_last_rows(untouched(8_500_000, 64))
    y = ops.expmap0(u)
    assert y.numel() * y.element_size() > 2**31
    torch.testing.assert_close(y[-4:], ops.expmap0(u[-4:]), rtol=0, atol=0)
    assert (y[:-4, 0] == 1).all() and (y[:-4].sum(1) == 1).all()


def test_propagate_beyond_2_31_bytes():
    """Edges between the last users and the last items: the last items' rows, summed by hand."""
    nodes = 8_500_000
    half = nodes // 2
    graph = BipartiteGraph.from_interactions(
        [half - 1, half - 1, half - 2], [half - 1, half - 2, half - 1], half, half
    )
    x = with_last_rows(untouched(nodes, 64))
    x[half - 2 : half] = torch.randn(2, 64, generator=generator(1))
    out = ops.propagate(x, graph, 1, space="tangent")
    assert out.numel() * out.element_size() > 2**31
    torch.testing.assert_close(out[-1, 1:], (x[half - 1] + x[half - 2] + x[-1])[1:] / 3)
    torch.testing.assert_close(out[-2, 1:], (x[half - 1] + x[-2])[1:] / 2)
    torch.testing.assert_close(out[-4:-2, 1:], x[-4:-2, 1:])
    torch.testing.assert_close(out[half - 1, 1:], (x[-1] + x[-2] + x[half - 1])[1:] / 3)
