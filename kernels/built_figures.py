"""The figures of the CUDA C++ kernels: held against what is required, and laid out in tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .. import native
from .built import BYTES, HELD, VECTOR, Kernel, kernels
from .calls import ELEMENTS, Call, declared_ops
from .figures import BANDWIDTH, Titled, each

NARROW, WIDE = 64, 8192  # widths that bytes are counted for: of held and of swept rows
# In these kernels a thread has four neighbouring columns, and moves every table in vectors …
ROW_WISE = {
    "held_rows", "swept_rows", "held_steps", "swept_steps", "make_elements", "sum_groups",
}  # fmt: skip
SINGLES = 4  # … but for numbers of a row that are read or written one by one: times, factors
# These load their tables in vectors, the first two if a template argument says so.
GATHERING = {"round_rows", "map_factors", "multiply"}
NARROW_GATHER = "round_rows<1, true>"  # a row is held in registers, and moved in vectors alone
APPENDING = "multiply<true>"  # takes places in lists of integers, in any order

_ROWS = {
    "distance": "Distance<0>",
    "sqdist": "Distance<1>",
    "sqdist0": "Distance<2>",
    "distance_backward": "DistanceBackward<0>",
    "sqdist_backward": "DistanceBackward<1>",
    "sqdist0_backward": "DistanceBackward<2>",
    "expmap0": "ExpMap0",
    "logmap0": "LogMap0",
    "project": "Project",
    "expmap0_backward": "ScaledBackward<ExpMap0Gradient>",
    "logmap0_backward": "ScaledBackward<LogMap0Gradient>",
    "project_backward": "ScaledBackward<ProjectGradient>",
    "project_tangent": "ProjectTangent",
    "project_tangent_backward": "ProjectTangentBackward",
    "expmap": "ExpMap",
    "expmap_backward": "ExpMapBackward",
    "logmap": "LogMap",
    "logmap_backward": "LogMapBackward",
    "transport": "Transport",
    "transport_backward": "TransportBackward",
    "egrad2rgrad": "EgradToRgrad",
    "egrad2rgrad_backward": "EgradToRgradBackward",
    "margin_ranking": "MarginRanking",
    "margin_ranking_backward": "MarginRankingBackward",
}
_NUMBERS = {"distance", "sqdist", "sqdist0", "margin_ranking"}  # a number comes out of a row
_STEPS = {
    "riemannian_sgd_step_": "Sgd<true>",
    "riemannian_sgd_step_ (no momentum)": "Sgd<false>",
    "riemannian_adam_step_": "Adam",
}
# Op, or variant of one → labels of its kernels, or functions that stand for all of theirs.
KERNELS: dict[str, tuple[str, ...]] = {
    **{op: (f"held_rows<{row}>", f"swept_rows<{row}>") for op, row in _ROWS.items()},
    **{op: (f"held_steps<{step}>", f"swept_steps<{step}>") for op, step in _STEPS.items()},
    "directional_noise": ("make_elements<AddNoise<true>>",),
    "directional_noise_backward": ("sum_groups<NoiseGradient>", "add_groups"),
    "isotropic_noise": ("make_elements<AddNoise<false>>",),
    "isotropic_noise_backward": ("make_elements<ScaleBySignal>",),
    "column_statistics": ("sum_groups<Moments>", "merge_groups<false>"),
    "column_statistics_backward": (
        "sum_groups<Moments>", "merge_groups<true>", "make_elements<SpreadOverRows>",
    ),
    "propagate": ("find_owners", "map_factors", "node_factors", "round_rows", "heavy_rows"),
    "propagate_backward": ("find_owners", "map_factors", "node_factors", "round_rows", "heavy_rows"),
    "topk": ("point_heights", "multiply<false>", "find_bounds", "multiply<true>", "rank_listed"),
    "sample_negatives": ("draw_items",),
}  # fmt: skip


def measure() -> tuple[list[Kernel], str]:
    """The kernels of hdrm._C, and its build report's word on them or why there are none."""
    module = native.load()
    if module is None:
        return [], f"not built: {native.error()}"
    report = module.build_report()["cuda"]
    return kernels(Path(module.__file__)) if not report.startswith("not built") else [], report


def belongs(kernel: Kernel, op: str) -> bool:
    return bool({kernel.label, kernel.function} & set(KERNELS[op]))


def unjoined(kernel: Kernel, kind: str) -> int:
    """Loads or stores of single elements that no vector stands for, for tables in one dtype. Where
    rows cannot be moved in vectors a kernel has four of them for each vector."""
    rows_of_16_bits = kernel.function in ("held_rows", "swept_rows") and kernel.dtype == "float32"
    found = []
    for size, dtypes in ((BYTES[kernel.dtype], 1), *(((2, 2),) if rows_of_16_bits else ())):
        vector = min(VECTOR, HELD * size)
        joined = kernel.count(kind, vector) * vector // size
        found.append(-(-(kernel.count(kind, size) - joined) // dtypes))
    return max(found)


def violations(all_kernels: list[Kernel], ops: list[str]) -> list[str]:
    """What is not as it should be, a line each; `ops` are those that have to have kernels."""
    found = []
    for arch in sorted({kernel.arch for kernel in all_kernels}):
        here = [kernel for kernel in all_kernels if kernel.arch == arch]
        names = {name for kernel in here for name in (kernel.label, kernel.function)}
        for op in ops:
            wanted = {name for key, of_op in KERNELS.items() if op_of(key) == op for name in of_op}
            if not wanted:
                found.append(f"{op}: not known to hdrm/kernels/built_figures.py")
            elif absent := sorted(wanted - names):
                found.append(f"{op}: no kernel {', '.join(absent)} for sm_{arch}")
        for kernel in here:
            found += [f"{kernel.name}, sm_{arch}: {text}" for text in _broken(kernel)]
    return found


def _broken(kernel: Kernel) -> Iterator[str]:
    if not any(belongs(kernel, op) for op in KERNELS):
        yield "belongs to no op"
    if kernel.local:
        yield f"local memory, {kernel.local} bytes"
    if kernel.blocks < kernel.promised:
        yield f"{kernel.blocks} blocks fit a multiprocessor, not {kernel.promised}"
    for name in sorted(set(kernel.atomics)):
        if kernel.label != APPENDING or not name.startswith("ATOMG.E.ADD.STRONG"):
            yield f"{kernel.atomics.count(name)} atomic operations {name}"
    if kernel.function in ROW_WISE:
        if not kernel.in_bulk("ld"):
            yield f"has no load of {kernel.vector} bytes"
        for kind, verb in (("ld", "loads"), ("st", "stores")):
            if (number := unjoined(kernel, kind)) > SINGLES:
                yield f"{verb} {number} elements one at a time"
    elif _gathers_vectors(kernel):
        vectors, singly = (kernel.count("ld", size) for size in (kernel.vector, kernel.element))
        if kernel.label == NARROW_GATHER and vectors * kernel.vector <= singly * kernel.element:
            yield f"loads {singly} elements one at a time"
        if not vectors:
            yield f"has no load of {kernel.vector} bytes"


def _gathers_vectors(kernel: Kernel) -> bool:
    vector = kernel.function == "multiply" or kernel.label.endswith(", true>")
    return kernel.function in GATHERING and vector


def unregistered() -> list[str]:
    """A line for each op that the dispatcher has no CUDA kernel for."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return [
        f"{op}: hdrm._C has registered no CUDA kernel"
        for op in declared_ops()
        if not has_kernel(f"hdrm_cuda::{op}", "CUDA")
    ]


def op_of(key: str) -> str:
    """The op of a key of KERNELS, which may be a variant of it."""
    return key.partition(" ")[0]


# ---- tables

HEAD = (
    "op", "kernel", "registers", "local", "shared", "occupancy", "loads", "stores", "width",
    "bytes/row", "minimum", "µs",
)  # fmt: skip
TYPED = (
    "kernel", "dtype", "compiled", "registers", "local", "shared", "occupancy", "loads", "stores",
)  # fmt: skip


def lay_out(all_kernels: list[Kernel], calls: list[Call], full: bool) -> Iterator[Titled]:
    """The tables; what ops have to move is known from Triton's calls of them."""
    minima = {
        (f"{call.op} ({call.variant})" if call.variant else call.op, call.width): call
        for call in calls
        if call.dtype == "float32"
    }
    rows = [line for op in sorted(KERNELS) for line in _lines(all_kernels, op, minima)]
    if rows:
        yield "CUDA C++, float32", HEAD, rows
    if rows and full:
        yield "CUDA C++, every dtype", TYPED, _typed(all_kernels)


def summary(all_kernels: list[Kernel], report: str) -> str:
    """What is in hdrm._C, in a line."""
    if not all_kernels:
        known = "" if report.startswith("not built") else ", none of which is known here"
        return f"CUDA C++ kernels: {report}{known}"
    registers, local = (
        max(getattr(kernel, name) for kernel in all_kernels) for name in ("registers", "local")
    )
    return (
        f"CUDA C++ kernels: {len(all_kernels)}, built by nvcc {report}; registers ≤ {registers}, "
        f"local memory ≤ {local}"
    )


def _groups(all_kernels: list[Kernel], op: str) -> dict[tuple[str, str | None], list[Kernel]]:
    """The op's kernels by label and dtype, in the order in which they run."""
    groups: dict[tuple[str, str | None], list[Kernel]] = {}
    for name in KERNELS[op]:
        for kernel in all_kernels:
            if name in (kernel.label, kernel.function):
                groups.setdefault((kernel.label, kernel.dtype), []).append(kernel)
    return groups


def _figures(op: str, group: list[Kernel]) -> list[str]:
    """The worst of what is specialised in several ways, for each architecture."""
    archs = [
        [kernel for kernel in group if kernel.arch == arch]
        for arch in sorted({kernel.arch for kernel in group})
    ]
    accesses = ["–", "–"]
    if group[0].function in ROW_WISE:
        size = group[0].vector
        accesses = [f"{number} × {size}" if number else "–" for number in in_vectors(op, group)]
    elif _gathers_vectors(group[0]):
        accesses[0] = str(group[0].vector)
    return [
        each(max(kernel.registers for kernel in of_arch) for of_arch in archs),
        each(max(kernel.local for kernel in of_arch) for of_arch in archs),
        each(max(kernel.shared for kernel in of_arch) for of_arch in archs),
        each(f"{min(kernel.occupancy for kernel in of_arch):.0%}" for of_arch in archs),
        *accesses,
    ]


def in_vectors(op: str, group: list[Kernel]) -> tuple[int, int]:
    """Loads and stores of a thread for its columns of a row. Compilers may unroll sweeps, so that
    the least of all architectures is closest to what is done."""
    loads, stores = (min(kernel.in_bulk(kind) for kernel in group) for kind in ("ld", "st"))
    return loads, 0 if op in _NUMBERS else stores


def moved(op: str, group: list[Kernel], width: int) -> float:
    """Bytes that they load and store in vectors for a row."""
    return sum(in_vectors(op, group)) * group[0].vector / HELD * width


def _lines(
    all_kernels: list[Kernel], op: str, minima: dict[tuple[str, int], Call]
) -> list[list[str]]:
    """The table's lines for an op: one a kernel, and a sum if several run one after the other."""
    alone = op in _ROWS or op in _STEPS or len(KERNELS[op]) == 1
    found, total = [], 0.0
    for (label, dtype), group in _groups(all_kernels, op).items():
        if dtype not in (None, "float32"):
            continue
        row = ["", "", "", ""]
        if group[0].function in ROW_WISE:
            swept = group[0].function.startswith("swept")
            width = WIDE if swept else NARROW
            of_row = moved(op, group, width)
            total += of_row
            row = _bytes_of_row(of_row, width, minima.get((op, width)), "≤ " if swept else "")
            row[2:] = row[2:] if alone else ["", ""]
        name = group[0].function if op in _ROWS or op in _STEPS else label
        found.append(["", name, *_figures(op, group), *row])
    if total and not alone:
        row = _bytes_of_row(total, NARROW, minima.get((op, NARROW)))
        found.append(["", "together", *[""] * 6, *row])
    if found:
        found[0][0] = op
    return found


def _bytes_of_row(of_row: float, width: int, call: Call | None, bound: str = "") -> list[str]:
    microseconds = of_row * (ELEMENTS // width) / BANDWIDTH * 1e6
    minimum = f"{call.minimum / call.rows:,.0f}" if call else ""
    return [str(width), f"{bound}{of_row:,.0f}", minimum, f"{bound}{microseconds:,.0f}"]


def _typed(all_kernels: list[Kernel]) -> list[list[str]]:
    """A line for each kernel and dtype."""
    found = {}
    for op in sorted(KERNELS):
        for (label, dtype), group in _groups(all_kernels, op).items():
            line = [f"{op}: {label}", dtype or "–", str(len(group)), *_figures(op, group)]
            found.setdefault((label, dtype), line)
    return list(found.values())


def as_json(all_kernels: list[Kernel], report: str) -> dict[str, Any]:
    """All figures, for programs."""
    found = []
    for kernel in all_kernels:
        figures = dataclasses.asdict(kernel) | {
            "accesses": [[*key, number] for key, number in kernel.accesses.items()],
            "ops": [op for op in KERNELS if belongs(kernel, op)],
            "blocks": kernel.blocks,
            "occupancy": kernel.occupancy,
        }
        found.append(figures)
    return {"built": report, "kernels": found}
