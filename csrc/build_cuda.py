"""Whether csrc/cuda is compiled, with which nvcc and for which GPUs. It needs no GPU.

HDRM_CUDA=1 asks for it, HDRM_CUDA=0 forbids it, and else it is done where nvcc is found and torch
is a CUDA build. TORCH_CUDA_ARCH_LIST names the architectures.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from setuptools.errors import SetupError

# Compute capabilities, and intermediate code for those that come after the last of them.
ARCHITECTURES = "8.0;9.0;10.0+PTX"
NVCC_MINIMUM = (12, 0)  # the first that knows C++20
FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "--expt-relaxed-constexpr", "--extended-lambda"]
PLACES = "CUDA_HOME, PATH, /usr/local/cuda"


class Cuda(NamedTuple):
    """A toolkit, and what it is to compile for."""

    root: Path
    version: str
    cubins: tuple[str, ...]  # compute capabilities as nvcc writes them: "80", "90a"
    ptx: tuple[str, ...]

    @property
    def nvcc(self) -> Path:
        return self.root / "bin" / "nvcc"

    @property
    def libraries(self) -> list[str]:
        """For the linker: the static runtime, all its own, whatever runtime torch has loaded."""
        name = "libcudart_static.a"
        found = [*self.root.glob(f"lib*/{name}"), *self.root.glob(f"targets/*/lib/{name}")]
        folder = found[0].parent if found else self.root / "lib64"
        hidden = f"-Wl,--exclude-libs,{name}"
        return [f"-L{folder}", hidden, "-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    def flags(self, host_compiler: str) -> list[str]:
        codes = [f"-gencode=arch=compute_{cc},code=sm_{cc}" for cc in self.cubins]
        codes += [f"-gencode=arch=compute_{cc},code=compute_{cc}" for cc in self.ptx]
        host = ["-ccbin", host_compiler, "-Xcompiler=-fPIC,-fvisibility=hidden"]
        return [*FLAGS, *codes, *host]

    def __str__(self) -> str:
        targets = [f"sm_{cc}" for cc in self.cubins] + [f"PTX {cc}" for cc in self.ptx]
        return f"{self.version} for {', '.join(targets)}"


def choose(torch_root: Path, torch_version: str) -> tuple[Cuda | None, str]:
    """The toolkit to compile with, or None; and what the build report says of it.

    Raises SetupError if HDRM_CUDA=1 cannot be done, or a setting cannot be understood.
    """
    wanted = os.environ.get("HDRM_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SetupError(f"HDRM_CUDA: expected 0, 1 or nothing, got {wanted!r}")
    if wanted == "0":
        return None, "not built: HDRM_CUDA=0; install hdrm again without it"
    if wanted != "1" and not is_cuda_build(torch_root):
        return None, (
            f"not built: torch {torch_version} is a CPU build; install a CUDA build of torch and "
            f"then hdrm again, or set HDRM_CUDA=1"
        )
    root = find_toolkit()
    if root is None:
        missing = f"found no nvcc ({PLACES}) with a toolkit around it"
        if wanted == "1":
            raise SetupError(
                f"HDRM_CUDA=1 asks for the CUDA kernels, but {missing}. Install the CUDA toolkit, "
                f"or name its folder in CUDA_HOME."
            )
        return None, f"not built: {missing}; install the CUDA toolkit and then hdrm again"
    version = nvcc_version(root)
    if tuple(map(int, version.split("."))) < NVCC_MINIMUM:
        minimum = ".".join(map(str, NVCC_MINIMUM))
        too_old = f"nvcc {version} in {root} is too old: at least {minimum} is needed"
        if wanted == "1":
            raise SetupError(f"HDRM_CUDA=1 asks for the CUDA kernels, but {too_old}")
        return None, f"not built: {too_old}; name a newer one in CUDA_HOME and install hdrm again"
    known = known_architectures(root)
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        cubins, ptx = parse_architectures(asked)
        if unknown := [cc for cc in cubins if cc.rstrip("af") not in known]:
            raise SetupError(
                f"TORCH_CUDA_ARCH_LIST: nvcc {version} does not compile for "
                f"{', '.join(unknown)}; it knows {', '.join(known)}"
            )
    else:
        cubins = tuple(cc for cc in parse_architectures(ARCHITECTURES)[0] if cc in known)
        ptx = cubins[-1:]
    cuda = Cuda(root, version, cubins, ptx)
    return cuda, str(cuda)


def is_cuda_build(torch_root: Path) -> bool:
    """Whether torch was built with CUDA, by its version.py, without importing it."""
    text = (torch_root / "version.py").read_text()
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None


def find_toolkit() -> Path | None:
    """A folder with nvcc and its headers: a lone nvcc on PATH may be a wrapper of another's."""
    folders = [Path(named)] if (named := os.environ.get("CUDA_HOME")) else []
    if found := shutil.which("nvcc"):
        folders += [Path(found).parent.parent, Path(found).resolve().parent.parent]
    for root in [*folders, Path("/usr/local/cuda")]:
        headers = [root / "include", *root.glob("targets/*/include")]
        if (root / "bin" / "nvcc").is_file() and any(
            (folder / "cuda_runtime_api.h").is_file() for folder in headers
        ):
            return root
    return None


def nvcc_version(root: Path) -> str:
    return re.search(r"release (\d+\.\d+)", _ask_nvcc(root, "--version"))[1]


def known_architectures(root: Path) -> list[str]:
    return re.findall(r"compute_(\w+)", _ask_nvcc(root, "--list-gpu-arch"))


def _ask_nvcc(root: Path, question: str) -> str:
    command = [str(root / "bin" / "nvcc"), question]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"nvcc does not run; HDRM_CUDA=0 installs hdrm without it: {error}"
        ) from error


def parse_architectures(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Compute capabilities for machine code and for PTX: "8.0;9.0a+PTX" is (80, 90a), (90a,).

    Raises SetupError for names of GPU families, which torch's own builds accept.
    """
    cubins, ptx = [], []
    for entry in re.split(r"[;,\s]+", text.strip("; ,\t\n")):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            raise SetupError(
                f"TORCH_CUDA_ARCH_LIST: expected compute capabilities such as "
                f"'{ARCHITECTURES}' or '9.0a', got {entry!r}"
            )
        capability = "".join(match.group(1, 2, 3))
        cubins.append(capability)
        ptx += [capability] if match[4] else []
    return tuple(dict.fromkeys(cubins)), tuple(dict.fromkeys(ptx))
