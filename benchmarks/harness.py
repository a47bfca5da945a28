"""How every benchmark is made: groups of rows that are checked, then timed in turns.

A group is one task, its rows are those who do it: our backends and their peers. Once per group each
row is called and its result compared with the reference; then the rows are called one after the
other, round after round, each time in another order, together with a plain copy of memory. What
disturbs the machine disturbs them all alike, and the fraction of the copy bandwidth belongs to the
same moments as the times. pytest-benchmark gets these times through the clock that it reads
(:func:`recorded_clock`), and does the rest.

``HDRM_BENCH_SMALL=1`` in the environment divides the sizes: it shows within minutes that all rows
run and agree, and its times mean nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import hdrm
from hdrm import memory
from hdrm.ops import backend

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type != "cpu":
    # On the CPU it would only cost: every call of torch passes the mode that this sets.
    torch.set_default_device(DEVICE)
SMALL = os.environ.get("HDRM_BENCH_SMALL") == "1"
WIDTHS = (64, 512)
BUDGET = 0.2 if SMALL else 1.0  # seconds for the rounds of a group
ROUNDS = (2, 3) if SMALL else (5, 50)  # at least, at most
LONG, OF_LONG = 10.0, 3  # seconds of a round that are enough to need only so many of them
PAUSE = 3e-3  # seconds before a row: threads that the last one left spinning go to sleep
SHORTEST_ROUND = 1e-3  # seconds; quicker calls are repeated within a round
COPIED = (1 if SMALL else 32) * 2**20  # float32 numbers of the copy: beyond any cache
COPY = "copy"

# Our backends on this device, by the name that a row of the table shows.
OURS = {
    f"hdrm {name}": name
    for name, state in hdrm.ops.available_backends().items()
    if state == "available" and name in ({"cpu"} if DEVICE.type == "cpu" else {"cuda", "triton"})
}
if not OURS:
    raise RuntimeError(
        f"no compiled kernels for {DEVICE} to compare anything with; `hdrm info` says why"
    )
PACKAGES = ("hdrm", "torch", "geoopt", "torch_geometric", "scipy", "faiss-cpu", "implicit", "numpy")

Call = Callable[[], object]


class LeftOut(Exception):
    """A row that cannot be measured here; the message says why and goes into the report."""


@dataclass
class Group:
    """One task and those who do it.

    Attributes:
        op, mode, size: the task; together they name the group.
        makers: row → a function that prepares and returns the call to time. It may raise LeftOut,
            or ImportError for a package that is not installed.
        check: raises AssertionError if a call's result is not the reference's.
        num_bytes: what an implementation cannot avoid moving; None where that is not the question.
        outputs: "fresh": torch's large results live in memory that the process has not touched yet,
            so the time contains its page faults (hdrm keeps that of its own: hdrm.memory);
            "touched": all memory is kept and used again.
        info: figures that the plots need, ``edges`` for one.
    """

    op: str
    mode: str
    size: str
    makers: Mapping[str, Callable[[], Call]]
    check: Callable[[object], None]
    num_bytes: int | None = None
    outputs: str = "fresh"
    info: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.op}, {self.mode}, {self.size}"


@dataclass
class Row:
    """Seconds per call, one of each round, and what went with them."""

    seconds: list[float]
    copy_rate: float | None  # bytes per second of the copy between the same rounds
    peak_bytes: int | None


def rows(
    cases: Iterable, peers: Iterable[str], guard: Callable[[object], bool] = lambda case: False
):
    """Parametrise a test by case and row, a case's rows together.

    ``guard`` names the cases of the regression guard; rows that compile, or that gather every edge's
    row into new memory, whose time is the system's, are left out there.
    """
    parameters = []
    for case, peer in itertools.product(cases, peers):
        guarded = guard(case) and not peer.endswith(("compiled", "scatter"))
        marks = [pytest.mark.guard] if guarded else []
        values = case.values if hasattr(case, "values") else case
        if isinstance(values, tuple) and len(values) == 1:
            (values,) = values
        marks += list(case.marks) if hasattr(case, "marks") else []
        parts = values if isinstance(values, tuple) else (values,)
        label = "-".join(str(part) for part in (*parts, peer))
        parameters.append(pytest.param(values, peer, id=label, marks=marks))
    return pytest.mark.parametrize(("case", "peer"), parameters)


def backend_of(peer: str):
    """The block in which a row of the table runs: ours on its backend, others as they are.

    The backend that users get is not asked for by name, since ops then look at each tensor's device.
    """
    wanted = OURS.get(peer)
    usual = wanted in (None, backend.backend_of(DEVICE.type))
    return contextlib.nullcontext() if usual else hdrm.use_backend(wanted)


# Measuring


def measure(group: Group, names: Iterable[str]) -> dict[str, Row | Exception]:
    """Check and time the named rows of a group; an exception where a row did not come to that."""
    calls, result = {}, {}
    use_outputs(group.outputs)
    for name in names:
        try:
            with backend_of(name):
                calls[name] = group.makers[name]()
                group.check(calls[name]())
        except (LeftOut, ImportError) as reason:
            calls.pop(name, None)
            result[name] = reason if isinstance(reason, LeftOut) else not_installed(reason)
        except Exception as error:  # noqa: BLE001 - the row's test raises it; the others are timed all the same
            calls.pop(name, None)
            result[name] = error
    if not calls:
        return result
    if group.num_bytes:
        source, target = torch.ones(COPIED), torch.ones(COPIED)
        calls[COPY] = lambda: target.copy_(source)
    seconds = in_turns(calls)
    copy = median(seconds.pop(COPY)) if group.num_bytes else None
    rate = 8 * COPIED / copy if copy else None
    for name, times in seconds.items():
        with backend_of(name):
            result[name] = Row(times, rate, peak_growth(calls[name]))
    return result


def not_installed(error: ImportError) -> LeftOut:
    return LeftOut(f"not installed: {error.name or error}")


def in_turns(calls: Mapping[str, Call]) -> dict[str, list[float]]:
    """Seconds per call of each round; every round calls all, in an order of its own."""
    repeats = {}
    for name, call in calls.items():
        with backend_of(name):
            once = clocked(call, 1)  # may still warm up, so a quick call is judged again by many
            once = clocked(call, max(1, math.ceil(SHORTEST_ROUND / once)))
            repeats[name] = max(1, math.ceil(SHORTEST_ROUND / once))
    lap = sum(clocked_under(name, calls[name], repeats[name]) * repeats[name] for name in calls)
    fewest, most = ROUNDS
    rounds = OF_LONG if lap > LONG else min(max(int(BUDGET / lap), fewest), most)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, shuffled = list(calls), random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffled.shuffle(names)
            for name in names:
                time.sleep(PAUSE)
                seconds[name].append(clocked_under(name, calls[name], repeats[name]))
    finally:
        gc.enable()
    return seconds


def clocked_under(name: str, call: Call, repeats: int) -> float:
    with backend_of(name):
        return clocked(call, repeats)


def clocked(call: Call, repeats: int) -> float:
    """Seconds per call. On a GPU until it is done, as a user waits for it."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def median(values: list[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: list[float], q: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64, device="cpu").quantile(q))


_times: list[float] = []
_now = 0.0


def recorded_clock() -> float:
    """The time that pytest-benchmark sees: it stands still but for :func:`replay`."""
    return _now


def replay(benchmark, seconds: list[float]) -> None:
    """Hand recorded times to pytest-benchmark, as if they passed now."""

    def advance():
        global _now
        _now += _times.pop(0)

    _times[:] = seconds
    benchmark.pedantic(advance, rounds=len(seconds), iterations=1)


# Memory

_LIBC = ctypes.CDLL(None)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # mallopt's names for them
_MIB = 2**20


def use_outputs(outputs: str) -> None:
    """Where glibc takes large tensors from: see Group.outputs.

    "fresh" is the state that a process reaches by itself when it has once freed a 32 MiB tensor:
    what is larger is mapped anew by each call, what is smaller may be used again.
    """
    if DEVICE.type == "cuda" or not hasattr(_LIBC, "mallopt"):
        return
    touched = outputs == "touched"
    _LIBC.mallopt(_MMAP_THRESHOLD, 32 * _MIB)
    _LIBC.mallopt(_MMAP_MAX, 0 if touched else 65536)
    _LIBC.mallopt(_TRIM_THRESHOLD, 2**31 - 1 if touched else 64 * _MIB)
    if not touched:
        _LIBC.malloc_trim(0)


def peak_growth(call: Call) -> int | None:
    """Bytes by which memory grows at the most during a call; None where it cannot be told.

    On the CPU that is resident memory: the kernel's own peak counter, set back before the call. Memory
    that hdrm keeps is given back before, so that what the call takes shows.
    """
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    memory.keep(0)
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = _resident("VmRSS")
        call()
        return max(_resident("VmHWM") - before, 0)
    except OSError:
        return None
    finally:
        memory.keep(memory.kept_by_default())


def _resident(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


@functools.cache
def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# Inputs and results


def scaled(size: int, floor: int = 1) -> int:
    """A size of the suite, or a hundredth of it when it only has to run."""
    return max(size // 100, floor) if SMALL else size


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cpu").to(DEVICE)


def tangent_rows(rows: int, width: int, seed: int = 0, radius: float = 1.0) -> Tensor:
    """Tangent vectors at the origin (rows, width) of about the given length."""
    u = normal(rows, width, seed=seed)
    u[:, 0] = 0
    return u * (radius / width**0.5)


def with_backward(function: Callable, *inputs: Tensor, weights: Tensor | None = None) -> Call:
    """A call that computes function(*inputs) and the gradients of Σ weights·result."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    if weights is None:
        weights = normal(*function(*inputs).shape, seed=1)
    return lambda: torch.autograd.grad(function(*leaves), leaves, weights)


def reference(run: Callable, *inputs: Tensor):
    """The float64 result of the reference backend."""
    with hdrm.use_backend("reference"):
        return run(*(tensor.double() for tensor in inputs))


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-3) -> None:
    """Greatest error relative to the greatest entry."""
    if found.shape != expected.shape:
        found = found.reshape(expected.shape)
    error = (found.double() - expected.double()).abs().max()
    scale = expected.double().abs().max()
    assert error <= tolerance * scale, f"wrong result: error {error:.2e}, entries to {scale:.2e}"


def compiled(function: Callable) -> Callable:
    """function under torch.compile for one shape; what cannot be compiled is left out."""
    torch._dynamo.config.recompile_limit = 1000  # a benchmark asks for more shapes than a program
    torch._dynamo.config.accumulated_recompile_limit = 10_000
    fast = torch.compile(function, dynamic=False)

    def run(*args):
        try:
            return fast(*args)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise LeftOut(f"torch.compile fails: {str(error).splitlines()[0]}") from error

    return run


def peer_rows(ours: Callable, others: Mapping[str, Callable], time: Callable[[Callable], Call]):
    """Makers of the rows "hdrm …", NAME and "NAME compiled" for functions that are timed alike."""
    makers = {name: lambda: time(ours) for name in OURS}
    for name, function in others.items():
        makers[name] = lambda function=function: time(function)
        makers[f"{name} compiled"] = lambda function=function: time(compiled(function))
    return makers
