"""How kernels are started: the shapes of their tiles, their tuning, and what the report compiles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import CHUNK

TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
# Of each table a thread has two vectors of 16 bytes in float32. Kernels that hold many tables, up to
# seven, and float64 are short of registers: half as many elements, but of 16-bit tables a vector.
ELEMENTS_PER_WARP, WIDE = 256, 128
WARPS = (2, 4, 8)  # of a program, to choose from
REGISTERS = 65_536  # of a multiprocessor


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments that one call starts it with."""

    kernel: Any
    arguments: tuple
    meta: dict[str, Any]


_recorded: list[Launch] | None = None


@contextlib.contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, kernels are not started but listed: what the report compiles is what would run."""
    global _recorded
    _recorded = found = []
    try:
        yield found
    finally:
        _recorded = None


def start(kernel, grid, *arguments, **meta) -> None:
    """Run ``kernel[grid]`` on the device of its first tensor and the current stream."""
    if _recorded is not None:
        _recorded.append(Launch(kernel, arguments, meta))
        return
    device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](*arguments, enable_fp_fusion=True, **meta)


def _tiles(elements_per_warp: int, named: dict[str, Any], meta: dict[str, Any]) -> list:
    """The tiles that the autotuner may choose from.

    The order of a row's sum follows from how the row lies across warps, and that must not depend on a
    timing. Rows of up to 128 columns lie in one warp (two in float64), which every tile has, and more
    rows beside them: there is a choice. Wider ones have a program to themselves. Of rows that are not
    aligned a warp reads 32 columns at a time, and the numbers of several would fill its registers.
    """
    short = elements_per_warp == WIDE or meta["T"] == tl.float64
    narrow = any(isinstance(x, Tensor) and x.element_size() == 2 for x in named.values())
    if short:
        elements_per_warp = ELEMENTS_PER_WARP if narrow else WIDE
    row, sizes = min(meta["D"], CHUNK.value), [warps * elements_per_warp for warps in WARPS]
    if row > 128 or named["width"] % 8:
        sizes = [max(row, 128)]
    found = []
    for elements in sizes:
        warps = max(1, elements // elements_per_warp)
        # All registers that there are, where they are short: the assembler, left to itself, spills
        # some where that lets one more block fit.
        most = min(255, REGISTERS // (32 * warps)) if short else None
        found.append(triton.Config({"ELEMENTS": elements}, num_warps=warps, maxnreg=most))
    return found


def tuned_tiles(kernel=None, *, elements_per_warp: int = ELEMENTS_PER_WARP, restore: tuple = ()):
    """Decorator of a kernel over tiles of rows: the first call for a width and dtypes times the tile
    sizes and keeps the best. ``restore`` names the arguments that the kernel changes in place.
    """
    if kernel is None:
        return lambda k: tuned_tiles(k, elements_per_warp=elements_per_warp, restore=restore)
    tiles = [triton.Config({}, num_warps=warps) for warps in WARPS]  # what is tried is _tiles'
    if triton.knobs.runtime.interpret:  # time goes by programs there
        tiles = [triton.Config({"ELEMENTS": 2048})]
    return triton.autotune(
        tiles,
        key=["width"],
        prune_configs_by={
            "early_config_prune": lambda _, named, **meta: _tiles(elements_per_warp, named, meta)
        },
        restore_value=list(restore),
    )(kernel)


def over_rows(kernel, num_rows: int, width: int, *arguments, **meta) -> None:
    """Start a kernel over tiles of rows: ``kernel(*arguments, num_rows, width, **meta)``."""
    if num_rows == 0:
        return
    columns = max(4, triton.next_power_of_2(width))
    chunk = min(columns, CHUNK.value)

    def grid(meta):
        return (triton.cdiv(num_rows, meta["ELEMENTS"] // chunk),)

    start(kernel, grid, *arguments, num_rows, width, D=columns, **meta)


def largest_radius(c: float, dtype: torch.dtype) -> float:
    """Largest radius over r = 1/√c at which |xs|² and its products are still finite."""
    return (350.0 if dtype == torch.float64 else 43.0) - max(0.0, -0.5 * math.log(c))


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What tables of this dtype are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32
