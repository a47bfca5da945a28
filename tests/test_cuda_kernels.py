"""The CUDA C++ kernels as they are built: what is required of the machine code holds, the figures
are the toolkit's own, and what is not as required is found.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import triton

from hdrm import native
from hdrm.kernels import built_figures as figures
from hdrm.kernels.built import Kernel, demangle, kernels, readable
from hdrm.kernels.calls import QUICK, calls, declared_ops

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built() -> list[Kernel]:
    found, report = figures.measure()
    if not found:
        pytest.skip(f"hdrm._C has no CUDA kernels: {report}")
    return found


@pytest.fixture(scope="module")
def toolkit() -> Path:
    spec = importlib.util.spec_from_file_location("build_cuda", ROOT / "csrc" / "build_cuda.py")
    build_cuda = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_cuda)
    found = build_cuda.find_toolkit()
    if found is None:
        pytest.skip(f"no CUDA toolkit in {build_cuda.PLACES}")
    return found


def test_everything_is_as_required(built):
    assert figures.violations(built, declared_ops()) == []
    assert figures.unregistered() == []


def test_every_kernel_is_there_for_every_target(built):
    targets = set(re.findall(r"sm_(\d+)", native.load().build_report()["cuda"]))
    by_arch = {arch: {k.name for k in built if k.arch == arch} for arch in (80, 90, 100)}
    by_arch = {arch: names for arch, names in by_arch.items() if names}
    assert {str(arch) for arch in by_arch} == targets & {"80", "90", "100"}
    assert len(set(map(frozenset, by_arch.values()))) == 1


def test_every_op_has_a_line():
    assert {figures.op_of(key) for key in figures.KERNELS} == set(declared_ops())


def test_rows_are_moved_once(built):
    """What a held row's kernel moves in vectors is what the op has to move, but for single numbers
    of a row; a wide row is read again for every sum."""
    of_ops = [call for op in declared_ops() for call in calls(op, QUICK)]
    ((_, head, rows),) = figures.lay_out(built, of_ops, False)
    op, ratios = "", {}
    for row in rows:
        row = dict(zip(head, row))
        op = row["op"] or op
        if row["minimum"]:
            moved, minimum = (
                float(row[name].removeprefix("≤ ").replace(",", ""))
                for name in ("bytes/row", "minimum")
            )
            ratios[op, row["width"]] = moved / minimum
    assert {"distance", "expmap_backward", "directional_noise", "riemannian_adam_step_"} <= {
        op for op, _ in ratios
    }
    twice = ("column_statistics_backward", "64")  # z0 for the statistics, and for what is spread
    assert ratios.pop(twice) == pytest.approx(1.5, abs=0.02)
    for (op, width), ratio in ratios.items():
        if width == "64":
            assert ratio == pytest.approx(1, abs=0.02), op
        else:
            assert 1 <= ratio < 20, op


def test_figures_are_those_of_ptxas(built, toolkit, tmp_path):
    """ptxas compiles the PTX of one source again and says itself what it takes."""
    report = native.load().build_report()["cuda"]
    version = subprocess.run(
        [toolkit / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=True
    ).stdout
    if report.split()[0] not in version or "sm_100, PTX 100" not in report:
        pytest.skip(f"the kernels are {report}, the toolkit here is another")
    command = [triton.knobs.nvidia.cuobjdump.path, "-xptx", "all", native.load().__file__]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    source = next(path for path in tmp_path.glob("*.ptx") if "rank_listed" in path.read_text())
    done = subprocess.run(
        [toolkit / "bin" / "ptxas", "-v", "-arch=sm_100", source, "-o", tmp_path / "again.cubin"],
        capture_output=True,
        text=True,
        check=True,
    )
    again = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
        r".*?Used (\d+) registers(.*?)\n",
        done.stdout + done.stderr,
        re.DOTALL,
    )
    mine = {kernel.symbol: kernel for kernel in built if kernel.arch == 100}
    assert len(again) >= 10
    for symbol, stack, spilled, registers, rest in again:
        kernel = mine[symbol]
        shared = re.search(r"(\d+) bytes smem", rest)
        assert (kernel.registers, kernel.local) == (int(registers), int(stack) + int(spilled))
        assert kernel.shared == (int(shared[1]) if shared else 0), kernel.name


BROKEN = """
namespace hdrm::cuda {
template <class T> struct ExpMap0 {};
template <class T> struct LogMap0 {};
template <class T> struct Project {};
template <class T> struct Transport {};
template <class T> struct ExpMap {};

template <class Op> constexpr int kind = 0;
template <> constexpr int kind<LogMap0<float>> = 1;
template <> constexpr int kind<Project<float>> = 2;
template <> constexpr int kind<Transport<float>> = 3;
template <> constexpr int kind<ExpMap<float>> = 4;

template <class Op, class T, class Native, int kTeam>
__global__ void __launch_bounds__(128, kind<Op> == 4 ? 8 : 3)
    held_rows(const float* in, float* out, const int* places, int rows, bool quads) {
  __shared__ float much[kind<Op> == 4 ? 9000 : 1];
#pragma unroll 1
  for (int i = 4 * threadIdx.x; i < rows; i += 512) {
    float held[4];
    if (kind<Op> != 1 && quads) {
      *reinterpret_cast<float4*>(held) = *reinterpret_cast<const float4*>(in + i);
    } else {
      for (int j = 0; j < 4; ++j) held[j] = in[places[i] + 5 * j];
    }
    if (kind<Op> == 2) {
      float table[64];
      for (int j = 0; j < 64; ++j) table[j] = in[places[j]];
      held[0] += table[places[i] & 63];
    }
    if (kind<Op> == 3) atomicAdd(out, held[0]);
    if (kind<Op> == 4) {
      for (int j = threadIdx.x; j < 9000; j += 128) much[j] = in[places[j]];
      __syncthreads();
      held[0] += much[places[i]];
    }
    if (kind<Op> != 1 && quads) {
      *reinterpret_cast<float4*>(out + i) = *reinterpret_cast<float4*>(held);
    } else {
      for (int j = 0; j < 4; ++j) out[places[i] + 5 * j] = held[j];
    }
  }
}
__global__ void stray(float* out) { out[threadIdx.x] = 0; }

template <class Op> void start() {
  held_rows<Op, float, float, 16><<<1, 128>>>(nullptr, nullptr, nullptr, 0, false);
}
void all() {
  start<ExpMap0<float>>(), start<LogMap0<float>>(), start<Project<float>>();
  start<Transport<float>>(), start<ExpMap<float>>();
  stray<<<1, 1>>>(nullptr);
}
}  // namespace hdrm::cuda
"""


def test_what_is_not_as_required_is_found(toolkit, tmp_path):
    (tmp_path / "broken.cu").write_text(BROKEN)
    codes = ["-gencode=arch=compute_90,code=[sm_90,compute_90]"]
    command = [toolkit / "bin" / "nvcc", "-std=c++17", "-O3", *codes, "-fatbin", "broken.cu"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = kernels(tmp_path / "broken.fatbin")
    assert {(k.arch, k.threads) for k in found if k.function == "held_rows"} == {(90, 128)}
    good = next(k for k in found if k.label == "held_rows<ExpMap0>")
    assert (good.in_bulk("ld"), good.in_bulk("st"), good.dtype) == (1, 1, "float32")
    assert (good.promised, good.local, good.atomics) == (3, 0, ())
    lines = figures.violations(found, [])
    broken = {k.label: [line for line in lines if line.startswith(k.name)] for k in found}
    assert broken.pop("held_rows<ExpMap0>") == []
    for label, text in {
        "held_rows<LogMap0>": r"has no load of 16 bytes$",
        "held_rows<Project>": r"local memory, (256|[3-9]\d\d) bytes$",
        "held_rows<Transport>": r"\d+ atomic operations RED\S*F32",
        "held_rows<ExpMap>": r": 6 blocks fit a multiprocessor, not 8$",
        "stray": r"belongs to no op$",
    }.items():
        assert any(re.search(text, line) for line in broken.pop(label)), (label, lines)
    assert broken == {}


def a_kernel(name: str, **changes) -> Kernel:
    figures = {"threads": 128, "promised": 3, "registers": 32, "local": 0, "shared": 0}
    accesses = {("ld", 16, 1): 1, ("ld", 4, 1): 4, ("st", 16, 1): 1, ("st", 4, 1): 4}
    figures |= {"accesses": accesses, "atomics": ()} | changes
    return Kernel(name, name, 90, **figures)


def test_single_accesses_are_found():
    """Six of a row's elements go one by one, where four would be those of the plain path."""
    name = "held_rows<ExpMap0<float>, float, float, 16>"
    assert figures.violations([a_kernel(name)], []) == []
    halved = {("ld", 16, 1): 2, ("ld", 4, 1): 16, ("st", 16, 1): 1, ("st", 4, 1): 4}
    assert figures.violations([a_kernel(name, accesses=halved)], []) == [
        f"{name}, sm_90: loads 8 elements one at a time"
    ]
    gather = "round_rows<float, float, 1, true>"
    singly = {("ld", 16, 2): 1, ("ld", 4, 2): 32}
    assert figures.violations([a_kernel(gather, accesses=singly)], []) == [
        f"{gather}, sm_90: loads 32 elements one at a time"
    ]


def test_integers_may_be_added_in_lists_alone():
    atomics = ("ATOMG.E.ADD.STRONG.GPU",)
    listing = "multiply<float, true>"
    assert figures.violations([a_kernel(listing, atomics=atomics)], []) == []
    for name in ("multiply<float, false>", "held_rows<ExpMap0<float>, float, float, 16>"):
        assert figures.violations([a_kernel(name, atomics=atomics)], []) == [
            f"{name}, sm_90: 1 atomic operations ATOMG.E.ADD.STRONG.GPU"
        ]
    compare = a_kernel(listing, atomics=("ATOMG.E.CAS.STRONG.GPU",))
    assert len(figures.violations([compare], [])) == 1


def test_missing_kernels_are_named():
    one = a_kernel("held_rows<ExpMap0<float>, float, float, 16>")
    assert figures.violations([one], ["expmap0", "sqdist7"]) == [
        "expmap0: no kernel swept_rows<ExpMap0> for sm_90",
        "sqdist7: not known to hdrm/kernels/built_figures.py",
    ]


def test_names():
    """Of a function in C++, and what many kernels share of it."""
    symbol = (
        "_ZN4hdrm4cuda9held_rowsINS_16DistanceBackwardIdLNS_6MetricE2EEEddLi128EEEvNS_12Row"
        "ArgumentsENS_5SpaceIT0_EElb"
    )
    name = "held_rows<DistanceBackward<double, (Metric)2>, double, double, 128>"
    assert readable(demangle(symbol)) == name
    assert a_kernel(name).label == "held_rows<DistanceBackward<2>>"
    assert a_kernel(name).dtype == "float64"
    assert a_kernel("held_rows<ExpMap<double>, double, float, 16>").dtype == "float32"
    assert a_kernel("round_rows<Half, float, 4, true>").dtype == "float16"
    assert a_kernel("round_rows<Half, float, 4, true>").label == "round_rows<4, true>"
    assert a_kernel("make_elements<float, AddNoise<float, true>>").label == (
        "make_elements<AddNoise<true>>"
    )
    assert a_kernel("find_owners").dtype is None
    assert demangle("kernel") == "kernel"


def test_a_build_without_them_says_why(monkeypatch):
    reason = "not built: HDRM_CUDA=0; install hdrm again without it"
    without = SimpleNamespace(build_report=lambda: {"cuda": reason}, __file__="")
    monkeypatch.setattr(native, "load", lambda: without)
    assert figures.measure() == ([], reason)
    assert figures.summary([], reason) == f"CUDA C++ kernels: {reason}"
    assert list(figures.lay_out([], [], True)) == []


def test_the_docs_have_every_op():
    text = (ROOT / "docs" / "kernels.md").read_text().partition("### CUDA C++, float32")[2]
    assert [key for key in figures.KERNELS if f"| {key} |" not in text] == []
