"""csrc/cuda as the backend "cuda" on a machine without a GPU: the kernels and the binding, compiled
by g++ for the emulator, registered with torch for tensors on the CPU.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

from .build import ROOT, build, missing

KEPT = ROOT / "csrc" / "cpu" / "kept_memory.cpp"  # where the bindings' results come from
FLAGS = ("-O2", "-DHDRM_CUDA_ON_CPU", "-fvisibility=hidden")


@cache
def load() -> None:
    """Lets the dispatcher know the emulated kernels, where this machine can run the emulator; not
    in tests/sanitize/run, as test_cuda_on_cpu.py has sanitizers of its own."""
    if missing() or "libasan" in os.environ.get("LD_PRELOAD", ""):
        return
    folder = Path(torch.__file__).parent
    target = "-DTORCH_TARGET_VERSION=0x020d000000000000ULL"  # as setup.py's
    library = build(
        "hdrm_cuda.so",
        sorted([*ROOT.glob("csrc/cuda/*.cu"), *ROOT.glob("csrc/binding/*.cpp"), KEPT]),
        flags=[*FLAGS, target, "-isystem", str(folder / "include")],
        libraries=[f"-L{folder / 'lib'}", "-ltorch_cpu"],
    )
    torch.ops.load_library(library)
