"""The emulator in tests/cuda_on_cpu: right kernels run, wrong ones are caught, each by name; and
every kernel of csrc/cuda in it, in several orders and under the sanitizers.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
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
RACES = (
    "missing_syncthreads",
    "missing_syncwarp",
    "missing_second_barrier",
    "missing_lanes_in_mask",
    "written_before_leaving",
    "blocks_share_a_row",
)

MAPS = ("expmap0", "logmap0", "project", "project_tangent", "expmap", "logmap", "transport")
ROW_OPS = (*MAPS, "egrad2rgrad", "distance", "sqdist", "sqdist0", "margin_ranking")
NOISE = ("directional_noise", "isotropic_noise", "column_statistics")
TOPK = (
    *("plain", "seen", "odd", "narrow", "unaligned", "all", "single", "same", "copies", "near"),
    *("far", "nan", "close", "batches"),
)
# For each program of kernels the families of csrc that it runs, and its cases.
KERNELS = {
    "row_ops": (
        ("lorentz_maps", "distance", "ranking"),
        [name + end for name in ROW_OPS for end in ("", "_backward")],
    ),
    "noising": (("noising",), [name + end for name in NOISE for end in ("", "_backward")]),
    "riemannian_step": (("riemannian_step",), ["plain", "momentum", "nesterov", "adam"]),
    "message_passing": (
        ("message_passing",),
        ["mixed", "light", "heavy", "dense", "star", "empty", "one", "itself", "none"],
    ),
    "ranking": (("nearest", "ranking"), [*TOPK, "negatives"]),
}
CASES = [(name, case) for name, (_, cases) in KERNELS.items() for case in cases]
# So small a grid that rows come round by its stride.
SMALL_GRID = "-DHDRM_MAX_BLOCKS=2"
# Real kernels with one statement changed: the family, the file, what is changed to what, the
# sanitizer that must see it, and in what case.
MUTANTS = {
    "missing_syncthreads": (
        "noising",
        "column_sums.cuh",
        "      __syncthreads();\n      // Now a thread",
        "      // Now a thread",
        "threads",
        "column_statistics",
    ),
    "missing_second_barrier": (
        "noising",
        "column_sums.cuh",
        "      __syncthreads();\n    }\n",
        "    }\n",
        "threads",
        "column_statistics",
    ),
    "missing_syncwarp": (
        "message_passing",
        "message_passing.cu",
        "    __syncwarp();\n    settle_row",
        "    settle_row",
        "threads",
        "light",
    ),
    "read_beyond": (
        "noising",
        "held_row.h",
        "own[j] = coordinate(j) < width ?",
        "own[j] = coordinate(j) <= width ?",
        "memory",
        "isotropic_noise",
    ),
    "written_beyond": (
        "noising",
        "held_row.h",
        "if (coordinate(j) < width) row[",
        "if (coordinate(j) <= width) row[",
        "memory",
        "isotropic_noise",
    ),
    "quads_where_not_aligned": (
        "noising",
        "held_row.h",
        "% sizeof(typename Quad<S>::Vector) == 0",
        "% sizeof(S) == 0",
        "memory",
        "isotropic_noise",
    ),
    "lane_missing_in_mask": (
        "riemannian_step",
        "team.h",
        "kAllLanes = 0xffffffff",
        "kAllLanes = 0x7fffffff",
        "none",
        "plain",
    ),
    "rows_of_other_blocks": (
        "noising",
        "noising.cu",
        "std::int64_t(blockIdx.x) * blockDim.y + threadIdx.y",
        "std::int64_t(threadIdx.y)",
        "threads",
        "isotropic_noise",
    ),
}
SEEN_AS = {
    "none": "kernel sgd_step, .*mask 0x7fffffff",
    "memory": "buffer-overflow|misaligned address",
    "threads": "ThreadSanitizer: data race",
}


@pytest.fixture(scope="module", params=["none", "memory", "threads"])
def sanitizer(request) -> str:
    return request.param


def program(name: str, sanitizer: str = "none") -> Path:
    if reason := missing(sanitizer):
        pytest.skip(reason)
    return build(name, [HERE / f"{name}.cu"], sanitizer)


def kernels(name: str, sanitizer: str = "none", csrc: Path | None = None) -> Path:
    """A program of KERNELS; with `csrc`, of the kernel sources there instead of csrc/cuda."""
    if reason := missing(sanitizer):
        pytest.skip(reason)
    families, _ = KERNELS[name]
    sources = [HERE / f"{name}.cpp"]
    for family in families:
        sources += [(csrc or ROOT / "csrc") / "cuda" / f"{family}.cu"]
        host = {family, *({"noising": ["normals"], "nearest": ["kept_memory"]}.get(family, []))}
        sources += [p for f in sorted(host) if (p := ROOT / "csrc" / "cpu" / f"{f}.cpp").exists()]
    flags = [SMALL_GRID, "-iquote", str(csrc)] if csrc else [SMALL_GRID]
    return build(name, sources, sanitizer, flags=flags)


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


@pytest.mark.parametrize(("name", "case"), CASES)
def test_kernel_like_the_cpu(name, case):
    """All widths, storages and alignments of the program, bit for bit the same in every order."""
    found = [run(kernels(name), case, order=order) for order in ORDERS]
    for done in found:
        assert done.returncode == 0, done.stdout + done.stderr
    assert len({done.stdout for done in found}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("checked", ["memory", "threads"])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_under_sanitizers(name, checked):
    binary = kernels(name, checked)
    # "batches" has more users, which takes TSan minutes.
    cases = [case for case in KERNELS[name][1] if (case, checked) != ("batches", "threads")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda case: run(binary, case, order="random 3"), cases))
    wrong = {case: done for case, done in zip(cases, found) if done.returncode != 0}
    assert not wrong, {case: done.stdout + done.stderr[-5000:] for case, done in wrong.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_broken_kernel_is_caught(mutant):
    family, file, before, after, checked, case = MUTANTS[mutant]
    text = (ROOT / "csrc" / "cuda" / file).read_text()
    assert text.count(before) == 1, f"{file} has changed: {before}"
    csrc = ROOT / "build" / "cuda_on_cpu" / "mutants" / mutant
    (csrc / "cuda").mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "csrc" / "cuda").iterdir():
        text = source.read_text()
        (csrc / "cuda" / source.name).write_text(
            text.replace(before, after) if source.name == file else text
        )
    done = run(kernels(family, checked, csrc), case)
    assert done.returncode != 0
    assert re.search(SEEN_AS[checked], done.stdout + done.stderr), done.stderr[-3000:]


def test_kernel_sources_keep_to_the_rules():
    """device.h alone knows nvcc; the others use nothing that the emulator could not check."""
    sources = [p for p in (ROOT / "csrc" / "cuda").iterdir() if p.name != "device.h"]
    assert sources
    forbidden = r"__activemask|\basm\b|__shared__|<<<|#include [<\"](cu|thrust|cooperative)\w*[./]"
    for path in sources:
        code = re.sub(r"//.*", "", path.read_text())
        assert not re.search(forbidden, code.replace('#include "cuda/', "")), path
