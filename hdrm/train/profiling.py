"""`hdrm train --profile`: where the time of some steps goes."""

from __future__ import annotations

import gzip
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.autograd import DeviceType

from ..model import checkpoint
from .observer import Observer

WARM_UP, STEPS, SECONDS = 10, 5, 30.0  # steps before; steps that are recorded, so long at most


@dataclass(frozen=True)
class Cost:
    """What the calls of one op took."""

    name: str
    calls: int
    seconds: float  # without the ops that it called; on the GPU if one is used, else on the CPU
    share: float  # of all ops' seconds


def trace_file(run: Path, stage: str) -> Path:
    """Of a stage: a Chrome trace, for Perfetto (ui.perfetto.dev) or chrome://tracing."""
    return run / f"profile-{stage}.json.gz"


class Profile(Observer):
    """Records five steps of each stage, after ten; the others run as they always do.

    ``found`` has the ops of each recorded stage, the most expensive first. In the trace they bear
    the names ``hdrm::propagate``, ``hdrm::propagate_backward``, …; what lies between two steps, such
    as a validation, is recorded too.
    """

    def __init__(self, run: Path) -> None:
        self._run = Path(run)
        self._profiler: torch.profiler.profile | None = None
        self.found: dict[str, list[Cost]] = {}

    def stage(self, name: str, epochs: int, steps_per_epoch: int, examples: int) -> None:
        self.close()
        # A short stage is recorded from its middle.
        self._name, self._wait = name, min(WARM_UP, epochs * steps_per_epoch // 2)

    def step(self, loss: float) -> None:
        if self._profiler is None:
            self._wait -= 1
            if self._wait == 0:
                self._begin()
            return
        self._left -= 1
        if self._left == 0 or time.perf_counter() > self._ends:
            self.close()
        else:
            self._profiler.step()

    def close(self) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self.found[self._name] = _costs(profiler)
        checkpoint.replace(
            trace_file(self._run, self._name), lambda path: _write(profiler, path), durable=False
        )

    def _begin(self) -> None:
        self._left, self._ends = STEPS, time.perf_counter() + SECONDS
        # A schedule, if only of one kind, makes the profiler mark the steps.
        self._profiler = torch.profiler.profile(
            schedule=lambda step: torch.profiler.ProfilerAction.RECORD
        )
        self._profiler.start()


def _costs(profiler: torch.profiler.profile) -> list[Cost]:
    rows = [
        row
        for row in profiler.key_averages()
        if row.device_type == DeviceType.CPU and not row.key.startswith("ProfilerStep")
    ]
    on_device = sum(row.self_device_time_total for row in rows) > 0
    taken = [row.self_device_time_total if on_device else row.self_cpu_time_total for row in rows]
    total = max(sum(taken), 1e-9)
    costs = [
        Cost(row.key, row.count, spent / 1e6, spent / total) for row, spent in zip(rows, taken)
    ]
    return sorted(costs, key=lambda cost: -cost.seconds)


def _write(profiler: torch.profiler.profile, path: Path) -> None:
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        with trace.open("rb") as source, gzip.open(path, "wb") as target:
            shutil.copyfileobj(source, target)
