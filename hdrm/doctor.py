"""`hdrm doctor`: what a bug report should say about the machine, and whether what is there works.

Nothing of it names the user: the home folder is written ``~``, and of HDRM_DATA only whether it is
there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from . import __version__, native, ops
from .graph import BipartiteGraph
from .memory import format_bytes, resident

# The table of README.md, and what decides how torch, Triton and CUDA run.
VARIABLES = (
    "HDRM_BACKEND", "HDRM_DATA", "HDRM_BUILD", "HDRM_CUDA", "HDRM_KEPT_MEMORY", "HDRM_BENCH_SMALL",
    "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CXX", "MAX_JOBS", "TRITON_INTERPRET", "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
PACKAGES = ("numpy", "geoopt", "polars", "safetensors", "rich", "click")  # beside torch, the needed
TOLERANCE = 1e-5  # between a backend and the reference, float32

_ROOT = Path(__file__).resolve().parent.parent


def examine() -> dict:
    """The facts, and under "problems" a list of what should work and does not.

    Values are strings, numbers, None, lists and dictionaries of them.
    """
    backends = {name: _state(name, known) for name, known in ops.available_backends().items()}
    build = native.info()
    found = {
        "versions": {
            "hdrm": __version__,
            "revision": _revision(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": build["triton"],
            **{name: _version(name) for name in PACKAGES},
            "compiler": _first_line(*shlex.split(os.environ.get("CXX") or "g++"), "--version"),
            "CUDA of torch": torch.version.cuda,
            "nvcc": _last_line("nvcc", "--version"),
            "NVIDIA driver": _first_line(
                "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
            ),
        },
        "machine": {
            "system": f"{_system()}, Linux {platform.release()}, {platform.machine()}",
            "glibc": platform.libc_ver()[1] or None,
            "CPU": _cpu(),
            "SIMD level chosen": build["simd"],
            "cores": os.cpu_count(),
            "threads": build["threads"],
            "memory": format_bytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
            "of this process": format_bytes(resident()),
            "free on the disk": format_bytes(shutil.disk_usage(Path.cwd()).free),
            "GPUs": [_gpu(index) for index in range(torch.cuda.device_count())],
        },
        "installed": {"package": str(_ROOT), "compiled code": build["native"] or native.error()},
        "environment": {name: _variable(name) for name in VARIABLES if name in os.environ},
        "backends": backends,
    }
    found["problems"] = _problems(found)
    return _without_home(found)


def lines(found: dict) -> list[str]:
    """What examine found, as text for a person or a bug report."""
    text = []
    for title, content in found.items():
        if title == "problems":
            continue
        text.append(f"{title}:")
        for name, value in content.items():
            if isinstance(value, dict):
                text.append(f"  {name}:")
                text += [f"    {key}: {part}" for key, part in value.items()]
            else:
                shown = ", ".join(value) or "none" if isinstance(value, list) else value
                text.append(f"  {name}: {'none' if shown is None else shown}")
        if not content:
            text.append("  none of hdrm's variables is set")
    text += [f"problem: {problem}" for problem in found["problems"]] or ["no problems found"]
    return text


def _problems(found: dict) -> list[str]:
    backends, versions = found["backends"], found["versions"]
    problems = [" ".join(mistake.split()) for mistake in ops.backend.mistakes()]
    problems += [
        f"the backend {name} {state}"
        for name, state in backends.items()
        if state.startswith("fails")
    ]
    if importlib.util.find_spec("hdrm._C") is not None and native.load() is None:
        problems.append(native.error())
    if found["machine"]["GPUs"] and "works" not in (backends["cuda"], backends["triton"]):
        problems.append("there is a GPU and neither the backend cuda nor triton works on it")
    problems += [
        f"{name} is not installed: pip install {name}" for name in PACKAGES if not versions[name]
    ]
    if "HDRM_DATA" in os.environ and not Path(os.environ["HDRM_DATA"]).expanduser().is_dir():
        problems.append("HDRM_DATA names no folder; set it to the one that holds the data sets")
    return problems


def _state(backend: str, known: str) -> str:
    """Works, fails and why, or why it cannot be used here; ``known``: of available_backends()."""
    if known != "available":
        return f"not usable: {known}"
    on_gpu = backend in ("cuda", "triton") and torch.cuda.is_available()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ops.use_backend(backend):
                results = _sample("cuda" if on_gpu else "cpu")
            with ops.use_backend("reference"):
                expected = _sample("cpu")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return f"fails: {type(error).__name__}: {' '.join(str(error).split())}"
    for name, value in results.items():
        error = float((value.cpu() - expected[name]).abs().max())
        if not error <= TOLERANCE:
            return f"fails: {name} differs from the reference by {error:.2g}"
    return "works"


def _sample(device: str) -> dict[str, torch.Tensor]:
    """A map, a distance and its gradient, and a propagation, of a few rows."""
    u = torch.linspace(-1, 1, 5 * 9).reshape(5, 9).to(device).requires_grad_()
    x = ops.expmap0(u, c=0.5)
    d = ops.distance(x[:-1], x[1:], c=0.5)
    (gradient,) = torch.autograd.grad(d.sum(), u)
    graph = BipartiteGraph.from_interactions([0, 1, 1], [0, 1, 2], 2, 3).to(device)
    h = ops.propagate(x.detach(), graph, num_layers=2, c=0.5)
    # The distance from the origin is the length, whatever the backend.
    radius = ops.distance(x, ops.expmap0(torch.zeros_like(u), c=0.5), c=0.5) - u[:, 1:].norm(dim=1)
    if float(radius.detach().abs().max()) > TOLERANCE:
        raise ArithmeticError("distance(expmap0(u), origin) is not |u|")
    return {"expmap0": x.detach(), "distance": d.detach(), "its gradient": gradient, "propagate": h}


def _variable(name: str) -> str:
    value = os.environ[name]
    if name != "HDRM_DATA":
        return value
    return "a folder" if Path(value).expanduser().is_dir() else "no folder"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """Of a checkout, and whether it is changed."""
    if not (_ROOT / ".git").exists():
        return None
    return _first_line("git", "-C", str(_ROOT), "describe", "--always", "--dirty")


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _cpu() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    models = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(models, None)


def _gpu(index: int) -> str:
    found = torch.cuda.get_device_properties(index)
    memory = format_bytes(found.total_memory)
    return f"{found.name} (compute capability {found.major}.{found.minor}, {memory})"


def _first_line(*command: str) -> str | None:
    return next(iter(_output(command)), None)


def _last_line(*command: str) -> str | None:
    return next(reversed(_output(command)), None)


def _output(command: tuple[str, ...]) -> list[str]:
    """Lines that a program prints; none if it is not there or fails."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return ended.stdout.strip().splitlines()


def _without_home(value):
    home = str(Path.home())
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, dict):
        return {name: _without_home(part) for name, part in value.items()}
    return [_without_home(part) for part in value] if isinstance(value, list) else value
