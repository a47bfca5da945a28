"""The emulator in tests/cuda_on_cpu: right kernels run, wrong ones are caught, each by name; and
the row kernels of csrc/cuda in it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cuda_on_cpu.build import HERE, ROOT, build, missing, run

ORDERS = ("forward", "reverse", "random 1", "random 2")
RIGHT = (
    "block_reduction",
    "warps_of_different_length",
    "masks_within_a_warp",
    "early_exit",
    "intrinsics",
    "dimensions",
)
REFUSED = {
    "own_bit_missing": "thread (16,0,0), HERE: __shfl_sync: mask 0xffff lacks the caller's bit",
    "lane_outside_mask": "thread (0,0,0), HERE: __shfl_sync reads lane 20, which mask 0xffff does "
    "not name",
    "lane_has_left": "HERE: __shfl_sync reads lane 3, which has left the kernel",
    "mixed_intrinsics": "HERE: different intrinsics under mask 0xffffffff: __any_sync here, lane 0 "
    "in __all_sync (broken.cu:",
    "different_masks": "thread (8,0,0), HERE: __shfl_sync with mask 0xffffff01 while lane 0 waits",
    "different_barriers": "thread (32,0,0), HERE: __syncthreads while thread (0,0,0) waits in",
    "deadlock": "thread (0,0,0), HERE: deadlock: no thread can run; thread (0,0,0) waits in "
    "__syncthreads (HERE)",
}
OUT_OF_BOUNDS = ("beyond_dynamic_shared", "beyond_static_shared", "beyond_global")
MAPS = ("expmap0", "logmap0", "project", "project_tangent", "expmap", "logmap", "transport")
ROW_OPS = [name + end for name in (*MAPS, "egrad2rgrad") for end in ("", "_backward")]
RACES = (
    "missing_syncthreads",
    "missing_syncwarp",
    "missing_second_barrier",
    "missing_lanes_in_mask",
    "written_before_leaving",
    "blocks_share_a_row",
)


@pytest.fixture(scope="module", params=["none", "memory", "threads"])
def sanitizer(request) -> str:
    return request.param


def program(name: str, sanitizer: str = "none") -> Path:
    if reason := missing(sanitizer):
        pytest.skip(reason)
    return build(name, [HERE / f"{name}.cu"], sanitizer)


def row_ops(sanitizer: str = "none") -> Path:
    if reason := missing(sanitizer):
        pytest.skip(reason)
    backends = [
        ROOT / "csrc" / "cuda" / "lorentz_maps.cu",
        ROOT / "csrc" / "cpu" / "lorentz_maps.cpp",
    ]
    return build("row_ops", [HERE / "row_ops.cpp", *backends], sanitizer)


def place(case: str) -> str:
    """File and line of the statement that is wrong in a case of broken.cu."""
    lines = (HERE / "broken.cu").read_text().splitlines()
    (found,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"// HERE {case}")]
    return f"broken.cu:{found}"


@pytest.mark.parametrize("case", RIGHT)
def test_right_in_every_order(case, sanitizer):
    correct = program("correct", sanitizer)
    found = [run(correct, case, order=order) for order in ORDERS]
    for done in found:
        assert done.returncode == 0 and done.stdout.endswith("right\n"), done.stdout + done.stderr
    assert len({done.stdout for done in found}) == 1


def test_a_million_elements():
    done = run(program("correct"), "million")
    assert done.returncode == 0 and done.stdout.endswith("right\n")


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, sanitizer):
    done = run(program("broken", sanitizer), case)
    message, after = done.stdout.splitlines()
    assert message.startswith(f"kernel {case}, block (0,0,0), thread (")
    assert REFUSED[case].replace("HERE", place(case)) in message
    assert after == "and goes on" and done.returncode == 3


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("too_many_threads", "kernel too_many_threads: blocks of 1025 threads; expected 1 to 1024"),
        ("no_blocks", "kernel no_blocks: a grid of (0,1,1) blocks"),
    ],
)
def test_launch_refused(case, message):
    assert run(program("broken"), case).stdout.splitlines() == [message, "and goes on"]


def test_order_unknown():
    done = run(program("broken"), "uninitialised", order="sideways")
    assert "HDRM_CUDA_ORDER: expected forward, reverse or random SEED" in done.stderr + done.stdout


def test_shared_memory_starts_as_nan():
    """In the second block too, although the first one wrote there."""
    values = run(program("broken"), "uninitialised").stdout.split()
    assert len(values) == 64 and all("nan" in value for value in values)


@pytest.mark.parametrize("case", OUT_OF_BOUNDS)
def test_out_of_bounds(case):
    done = run(program("broken", "memory"), case)
    assert done.returncode != 0
    assert re.search(rf"buffer-overflow[^#]*#0 \S+ in {case} \S+{place(case)}", done.stderr)


def test_misaligned_vector():
    done = run(program("broken", "memory"), "misaligned")
    assert done.returncode != 0
    assert f"{place('misaligned')}:" in done.stderr and "misaligned address" in done.stderr


@pytest.mark.parametrize("case", RACES)
def test_race(case):
    done = run(program("broken", "threads"), case)
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr and place(case) in done.stderr


@pytest.mark.parametrize("op", ROW_OPS)
def test_row_op_like_the_cpu(op):
    """All widths, storages and alignments of row_ops.cpp, bit for bit the same in every order."""
    found = [run(row_ops(), op, order=order) for order in ORDERS]
    for done in found:
        assert done.returncode == 0, done.stdout + done.stderr
    assert len({done.stdout for done in found}) == 1


@pytest.mark.parametrize("sanitizer", ["memory", "threads"])
@pytest.mark.parametrize("op", ROW_OPS)
def test_row_op_under_sanitizers(op, sanitizer):
    done = run(row_ops(sanitizer), op, order="random 3")
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]


def test_row_op_beyond_the_grid():
    """More rows than a grid of the largest size takes at once."""
    done = run(row_ops(), "expmap0", str(8 * 2**15 + 9), "2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_kernel_sources_keep_to_the_rules():
    """device.h alone knows nvcc; the others use nothing that the emulator could not check."""
    sources = [p for p in (ROOT / "csrc" / "cuda").iterdir() if p.name != "device.h"]
    assert sources
    forbidden = r"__activemask|\basm\b|__shared__|<<<|#include [<\"](cu|thrust|cooperative)\w*[./]"
    for path in sources:
        code = re.sub(r"//.*", "", path.read_text())
        assert not re.search(forbidden, code.replace('#include "cuda/', "")), path
