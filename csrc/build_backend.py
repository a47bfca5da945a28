"""The PEP 517 build backend: setuptools', plus a look for a torch that is already there.

Only torch's headers and the symbols of its library are needed to compile hdrm, and with the
stable ABI any torch from TORCH_MINIMUM on serves. Listing torch among the build requirements would
download another one, several GB of it, into every isolated build; so it is asked for only when
the environment that hdrm is being installed into has none.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta as _setuptools
from setuptools.build_meta import (  # noqa: F401  (the hooks that stay as they are)
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

TORCH_MINIMUM = (2, 13)


def wants_native() -> bool:
    """Whether this install compiles csrc/. Elsewhere than on Linux nobody has tried it."""
    return sys.platform == "linux" and os.environ.get("HDRM_BUILD", "1") != "0"


def find_torch() -> tuple[Path, str] | None:
    """Folder and version of a torch whose headers serve, without importing it."""
    for directory in _site_folders():
        root = Path(directory, "torch")
        try:
            header = (root / "include/torch/headeronly/version.h").read_text()
        except OSError:
            continue
        version = re.search(r'define TORCH_VERSION\s+\\?\s*"([^"]+)"', header)
        if version and tuple(map(int, version[1].split(".")[:2])) >= TORCH_MINIMUM:
            return root, version[1]
    return None


def _site_folders() -> list[str]:
    """Where packages may lie: this interpreter's folders and those of the target environment."""
    folders = list(sys.path)
    # pip builds with the target's interpreter and only hides its packages from sys.path.
    folders += [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    # uv builds with another interpreter and does not say for which environment: it is one on
    # PATH (an activated one) or uv's default, .venv in the project.
    prefixes = [Path(entry).parent for entry in os.environ.get("PATH", "").split(os.pathsep)]
    for prefix in [*prefixes, Path(".venv").resolve()]:
        base = {"base": str(prefix), "platbase": str(prefix)}
        for kind in ("purelib", "platlib"):
            folders.append(sysconfig.get_path(kind, "posix_prefix", base))
    return list(dict.fromkeys(folders))


def _torch_requirement() -> list[str]:
    if not wants_native() or find_torch():
        return []
    return [f"torch>={TORCH_MINIMUM[0]}.{TORCH_MINIMUM[1]}"]


def get_requires_for_build_wheel(config_settings=None) -> list[str]:
    return _setuptools.get_requires_for_build_wheel(config_settings) + _torch_requirement()


def get_requires_for_build_editable(config_settings=None) -> list[str]:
    return _setuptools.get_requires_for_build_editable(config_settings) + _torch_requirement()
