"""The compiled module hdrm._C: loaded once, when first needed, and described.

Loading it registers the native kernels with torch. When it cannot be loaded the reason is kept
instead, and ends with the command that repairs it; hdrm then runs on its reference backend.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import sys
import warnings
from pathlib import Path
from types import ModuleType

TORCH_MINIMUM = (2, 13)  # the stable ABI that csrc/ is compiled for

_ROOT = Path(__file__).resolve().parent.parent  # a checkout if it holds csrc/
_REPAIR = (
    f'compile it with: pip install -e "{_ROOT}"'
    if (_ROOT / "csrc").is_dir()
    else "compile it with, in the folder of hdrm's sources: pip install --force-reinstall ."
)


def load() -> ModuleType | None:
    """hdrm._C with its kernels registered, or None when it is missing or does not fit."""
    return _attempt()[0]


def error() -> str | None:
    """Why load() returned None, ending with the command that repairs it; None when it did not."""
    return _attempt()[1]


@functools.cache
def _attempt() -> tuple[ModuleType | None, str | None]:
    if sys.platform != "linux":
        return None, f"hdrm's compiled code is built on Linux only, and this is {sys.platform}"
    if importlib.util.find_spec("hdrm._C") is None:
        python = platform.python_version()
        return None, f"hdrm's code is not compiled for Python {python}; {_REPAIR}"

    import torch  # loads the library that hdrm._C is linked against

    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH_MINIMUM:
        minimum = ".".join(map(str, TORCH_MINIMUM))
        return None, (
            f"hdrm's compiled code needs torch >= {minimum}, found {torch.__version__}; "
            f"repair it with: pip install 'torch>={minimum}'"
        )
    try:
        from hdrm import _C
    except ImportError as failure:
        return None, (
            f"hdrm's compiled code does not load under torch {torch.__version__} "
            f"({failure}); {_REPAIR}"
        )
    built, installed = _C.build_report()["version"], _version("hdrm")
    if installed not in (built, None):
        return None, f"hdrm is version {installed}, its compiled code {built}; {_REPAIR}"
    _warn_if_outdated(Path(_C.__file__))
    return _C, None


def _warn_if_outdated(binary: Path) -> None:
    """In a checkout: say so when sources changed after they were compiled."""
    built = binary.stat().st_mtime
    for source in (_ROOT / "csrc").rglob("*.[ch]*"):
        if source.stat().st_mtime > built:
            warnings.warn(
                f"{source.relative_to(_ROOT)} is newer than hdrm's compiled code; {_REPAIR}",
                stacklevel=2,
            )
            return


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def info() -> dict:
    """What this hdrm consists of and runs on, as plain text and numbers.

    Keys: hdrm, python, torch, geoopt, triton (versions, None if absent), native (the build report
    of hdrm._C, or None), native_error (why it is None), simd (instruction set of the CPU kernels),
    threads, devices.
    """
    import torch

    module = load()
    devices = ["cpu"]
    for index in range(torch.cuda.device_count()):
        devices.append(f"cuda:{index} ({torch.cuda.get_device_name(index)})")
    return {
        "hdrm": _version("hdrm"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "geoopt": _version("geoopt"),
        "triton": _version("triton"),
        "native": module.build_report() if module else None,
        "native_error": error(),
        "simd": module.simd_level() if module else None,
        "threads": torch.get_num_threads(),
        "devices": devices,
    }
