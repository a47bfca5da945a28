"""Compiles csrc/ into hdrm/_C: one module, built by ninja against torch's stable ABI.

Everything that is not compiled is declared in pyproject.toml. HDRM_BUILD=0 leaves compiling out,
CXX names the compiler, MAX_JOBS how many run at once; csrc/build_cuda.py tells about the CUDA
kernels.
"""

from __future__ import annotations

import io
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, SetupError

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "csrc"))  # `python setup.py` does not read backend-path

import build_cuda
from build_backend import TORCH_MINIMUM, find_torch, wants_native

# One binary for every CPU: kernels are compiled for several levels and chosen at run time, so no
# -march here. NaN, infinity and signed zero keep their meaning, so no -ffast-math either.
FLAGS = [
    *("-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"),
]
BYTES_PER_JOB = 1 << 30  # twice what the largest file takes


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it; objects stay in build/ so that a rebuild is incremental."""

    def build_extension(self, ext: Extension) -> None:
        # setuptools' own build_temp is a new folder in every editable install.
        folder = ROOT / "build" / "native" / sys.implementation.cache_tag
        folder.mkdir(parents=True, exist_ok=True)
        compiler = find_compiler()
        torch_root, torch_version = require_torch()
        cuda, cuda_report = build_cuda.choose(torch_root, torch_version)
        print(f"hdrm: CUDA kernels: {cuda_report}", flush=True)
        report = {
            "version": self.distribution.get_version(),
            "revision": source_revision(),
            "python": platform.python_version(),
            "compiler": compiler_version(compiler),
            "flags": " ".join(FLAGS),
            "torch": torch_version,
            "torch_target": ".".join(map(str, TORCH_MINIMUM)),
            "cuda": cuda_report,
        }
        write_if_changed(folder / "build_report.cpp", report_source(report))
        library = folder / "_C.so"
        sources = [*ext.sources, *files("csrc/cuda/*.cu") * bool(cuda)]
        sources.append(folder / "build_report.cpp")
        write_if_changed(
            folder / "build.ninja", ninja_file(compiler, torch_root, cuda, sources, library)
        )
        command = [sys.executable, "-m", "ninja", "-C", str(folder), f"-j{max_jobs()}"]
        if subprocess.run(command, check=False).returncode != 0:
            raise CompileError(
                "hdrm's C++ code did not compile; the compiler's message is above. "
                "HDRM_CUDA=0 installs without CUDA kernels, HDRM_BUILD=0 without any compiled "
                "code (slower: plain torch)."
            )
        os.utime(library)  # newer than every source, relinked or not: hdrm.native compares
        destination = Path(self.get_ext_fullpath(ext.name))
        destination.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(str(library), str(destination))


def ninja_file(
    compiler: list[str],
    torch_root: Path,
    cuda: build_cuda.Cuda | None,
    sources: list[str | Path],
    library: Path,
) -> str:
    try:
        import pybind11
        from ninja import ninja_syntax
    except ImportError as error:
        raise SetupError(
            f"{error}. Without build isolation first: pip install pybind11 ninja"
        ) from error

    # Only csrc/binding knows torch and only module.cpp Python: their headers take seconds.
    target = sum(part << shift for part, shift in zip(TORCH_MINIMUM, (56, 48)))
    torch = ["-isystem", str(torch_root / "include"), f"-DTORCH_TARGET_VERSION={target:#x}ULL"]
    torch += ["-DHDRM_WITH_CUDA"] if cuda else []
    python = ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    text = io.StringIO()
    ninja = ninja_syntax.Writer(text)

    def shell(words: list[str]) -> str:
        return ninja_syntax.escape(shlex.join(words))

    ninja.variable("cxx", shell(compiler))
    # An error that names its place in the code tells no folder of the machine that compiled it.
    places = [f"-fmacro-prefix-map={folder}/=" for folder in (ROOT, torch_root / "include")]
    ninja.variable("flags", shell([*FLAGS, *places, f"-I{ROOT / 'csrc'}"]))
    # torch is loaded before hdrm._C, so its library is found by name: no rpath.
    libraries = ["-Wl,--as-needed", f"-L{torch_root / 'lib'}", "-ltorch_cpu"]
    ninja.variable("ldflags", shell(libraries + (cuda.libraries if cuda else [])))
    ninja.rule(
        "compile",
        command="$cxx $flags $extra -MD -MF $out.d -c $in -o $out",
        depfile="$out.d",
        deps="gcc",
        description="C++ $in",
    )
    if cuda:
        host = [word for word in compiler if not word.startswith("-")][-1]  # without ccache
        flags = [*cuda.flags(host), f"-I{ROOT / 'csrc'}"]
        ninja.rule(
            "compile_cuda",
            command=f"{shell([str(cuda.nvcc), *flags])} -MD -MF $out.d -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="CUDA $in",
        )
    ninja.rule("link", command="$cxx -shared $in -o $out $ldflags", description="link $out")
    objects = []
    for source in (ROOT / name for name in sources):
        objects.append(str(source.relative_to(ROOT).with_suffix(".o")))
        if source.suffix == ".cu":
            ninja.build(objects[-1], "compile_cuda", str(source))
            continue
        extra = torch if source.parent.name == "binding" else []
        extra = python if source.name == "module.cpp" else extra
        ninja.build(objects[-1], "compile", str(source), variables={"extra": shell(extra)})
    ninja.build(str(library), "link", objects)
    return text.getvalue()


def find_compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    raise SetupError(
        "hdrm compiles C++20 code and found no compiler (g++, clang++). Install one "
        "(Debian, Ubuntu: apt-get install g++) or name it in CXX, or set HDRM_BUILD=0 to "
        "install without compiled code (slower: plain torch)."
    )


def compiler_version(compiler: list[str]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"the C++ compiler {shlex.join(compiler)!r} does not run: {error}"
        ) from error
    return done.stdout.splitlines()[0]


def require_torch() -> tuple[Path, str]:
    found = find_torch()
    if found is None:
        minimum = ".".join(map(str, TORCH_MINIMUM))
        raise SetupError(
            f"hdrm is compiled against torch >= {minimum} and found none. Without build isolation "
            f"install it first (pip install 'torch>={minimum}'); with isolation pip does so itself."
        )
    return found


def source_revision() -> str:
    """The git commit, for the build report; unknown in an sdist."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def max_jobs() -> int:
    """MAX_JOBS, or what cores and free memory allow."""
    if named := os.environ.get("MAX_JOBS"):
        if not named.isdigit() or int(named) == 0:
            raise SetupError(f"MAX_JOBS: expected a whole number >= 1, got {named!r}")
        return int(named)
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = 1024 * int(meminfo["MemAvailable"].split()[0])
    return max(1, min(len(os.sched_getaffinity(0)), available // BYTES_PER_JOB))


def report_source(report: dict[str, str]) -> str:
    """The build report as C++: its own file, so that a new value recompiles nothing else."""

    def literal(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    rows = "".join(f"    {{{literal(k)}, {literal(v)}}},\n" for k, v in report.items())
    return (
        "namespace hdrm {\n"
        "extern const char* const build_report[][2];\n"
        f"const char* const build_report[][2] = {{\n{rows}    {{nullptr, nullptr}},\n}};\n"
        "}  // namespace hdrm\n"
    )


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def files(*patterns: str) -> list[str]:
    return sorted(
        str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)
    )


module = Extension(
    "hdrm._C",
    sources=files("csrc/*.cpp", "csrc/binding/*.cpp", "csrc/cpu/*.cpp"),
    # What an sdist needs besides.
    depends=files("csrc/**/*.h", "csrc/cuda/*.cu", "csrc/cuda/*.cuh", "csrc/build_*.py"),
)
setup(ext_modules=[module] if wants_native() else [], cmdclass={"build_ext": NinjaBuild})
