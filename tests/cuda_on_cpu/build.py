"""Compiles kernel sources with g++ for the emulator beside this file, and runs them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CXX = shlex.split(os.environ.get("CXX", "g++"))
FLAGS = ("-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-fPIC", "-Wno-unknown-pragmas")
# What a build is checked for: nothing; memory errors and undefined behaviour; races.
SANITIZERS = {
    "none": (),
    "memory": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "threads": ("-fsanitize=thread",),
}


@cache
def missing(sanitizer: str = "none") -> str:
    """Why this machine cannot build or run the emulator with a sanitizer; "" if it can."""
    if platform.machine() != "x86_64":
        return f"the emulator's fiber switch is written for x86-64, not {platform.machine()}"
    if shutil.which(CXX[0]) is None:
        return f"there is no {CXX[0]}"
    libraries = {"none": (), "memory": ("libasan", "libubsan"), "threads": ("libtsan",)}
    for library in libraries[sanitizer]:
        command = [*CXX, f"-print-file-name={library}.so"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if not found.startswith("/"):
            return f"{CXX[0]} comes without {library}"
    return ""


def build(
    name: str,
    sources: Iterable[Path],
    sanitizer: str = "none",
    *,
    flags: Iterable[str] = (),
    libraries: Iterable[str] = (),
) -> Path:
    """The program `name`, or the shared library if `name` ends in .so, of C++ and CUDA sources and
    the emulator. Made again when a flag, a source or any header has changed.

    Raises RuntimeError with the compiler's messages.
    """
    folder = ROOT / "build" / "cuda_on_cpu" / sanitizer
    folder.mkdir(parents=True, exist_ok=True)
    common = (*FLAGS, f"-I{ROOT / 'csrc'}", f"-I{HERE}", *flags)
    checked = (*common, *SANITIZERS[sanitizer])
    # With TSan the engine is compiled without it: see fiber.h.
    engine = (*common, "-DCUDA_ON_CPU_TSAN") if sanitizer == "threads" else checked
    jobs = [(Path(source), checked) for source in sources] + [(HERE / "engine.cpp", engine)]
    with _alone(folder), ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _object(folder, *job), jobs))
    link = (*(("-shared",) if name.endswith(".so") else ()), *libraries)
    stem, dot, suffix = name.partition(".")
    key = _hash("\n".join([*map(str, objects), *link]).encode())
    program = folder / f"{stem}-{key}{dot}{suffix}"
    if not program.exists():
        _compile([*SANITIZERS[sanitizer], *map(str, objects), *link], program)
    return program


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Test processes side by side would compile everything twice."""
    with open(folder / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _object(folder: Path, source: Path, flags: tuple[str, ...]) -> Path:
    name = f"{source.stem}-{_hash(shlex.join([*CXX, *flags, str(source)]).encode())}"
    depends = folder / f"{name}.d"  # what the object was last made of
    if depends.exists() and (made := _made_of(depends)).exists():
        return made
    fresh, now = folder / f"{name}.{os.getpid()}.o", folder / f"{name}.{os.getpid()}.d"
    _compile([*flags, "-MMD", "-MF", str(now), "-c", "-x", "c++", str(source)], fresh)
    os.replace(now, depends)
    made = _made_of(depends)
    os.replace(fresh, made)
    return made


def _made_of(depends: Path) -> Path:
    """The object that the files which a .d file lists, as they are now, would give."""
    files = depends.read_text().replace("\\\n", " ").split()[1:]
    content = b"".join(Path(file).read_bytes() for file in files if Path(file).exists())
    return depends.with_name(f"{depends.stem}-{_hash(content)}.o")


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _compile(arguments: list[str], made: Path) -> None:
    half_made = made.with_name(f"{made.name}.{os.getpid()}")
    done = subprocess.run(
        [*CXX, *arguments, "-o", str(half_made)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(CXX)} could not make {made.name}:\n{done.stderr}")
    os.replace(half_made, made)


def run(program: Path, *arguments: str, order: str = "forward") -> subprocess.CompletedProcess[str]:
    """Runs a program; order of blocks, warps and lanes: forward, reverse or "random SEED"."""
    environment = {
        **os.environ,
        "HDRM_CUDA_ORDER": order,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    command = [str(program), *arguments]
    if program.parent.name == "threads":
        command = [*_without_random_addresses(), *command]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=300
    )


@cache
def _without_random_addresses() -> tuple[str, ...]:
    """Newer kernels spread addresses wider than TSan's runtime may bear."""
    if shutil.which("setarch") is None:
        return ()
    tried = subprocess.run(["setarch", "-R", "true"], capture_output=True, check=False)
    return ("setarch", "-R") if tried.returncode == 0 else ()
