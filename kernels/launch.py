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
ELEMENTS_PER_WARP = 256  # two vectors of 16 bytes a thread in float32


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


def _fitting(configs: list[triton.Config], named: dict[str, Any], **meta) -> list[triton.Config]:
    """The tiles that hold a chunk of rows of this width; the interpreter has no time to choose.

    More than 8 warps leave a thread 128 registers: only where a single row needs them. Of rows that
    are not aligned a warp reads 32 columns at a time and a thread gets all rows of the tile: the
    smallest tile, or their numbers fill its registers.
    """
    chunk = min(meta["D"], CHUNK.value)
    fitting = [config for config in configs if config.kwargs["ELEMENTS"] >= chunk]
    if triton.knobs.runtime.interpret:
        return fitting[-1:]
    fitting = [config for config in fitting if config.num_warps <= 8] or fitting
    return fitting if named["width"] % 16 == 0 else fitting[:1]


def tuned_tiles(kernel=None, *, elements_per_warp: int = ELEMENTS_PER_WARP, restore: tuple = ()):
    """Decorator of a kernel over tiles of rows: the first call for a width class and dtypes times the
    tile sizes and keeps the best. ``restore`` names the arguments that the kernel changes in place.
    """
    if kernel is None:
        return lambda k: tuned_tiles(k, elements_per_warp=elements_per_warp, restore=restore)
    return triton.autotune(
        [
            triton.Config({"ELEMENTS": elements}, num_warps=max(1, elements // elements_per_warp))
            for elements in (128, 512, 1024, 2048)
        ],
        key=["D"],
        prune_configs_by={"early_config_prune": _fitting},
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
