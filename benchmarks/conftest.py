"""The frontend: pytest-benchmark's rows get the times that a group was measured with, in turns."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import harness
import pytest
import torch
from harness import DEVICE, SMALL, LeftOut, quantile, recorded_clock, replay, versions

import hdrm

COMMIT = subprocess.run(
    ["git", "describe", "--always", "--dirty", "--abbrev=12"],
    cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
).stdout.strip()  # fmt: skip
# Rows that were not measured, and why; a list in machine_info, which the report reads.
LEFT_OUT: list[dict] = []


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.benchmark(timer=recorded_clock))


def pytest_benchmark_update_json(config, benchmarks, output_json):
    output_json["left_out"] = LEFT_OUT


def pytest_benchmark_update_machine_info(config, machine_info):
    info = hdrm.build_info()
    machine_info["hdrm"] = {k: info[k] for k in ("hdrm", "torch", "geoopt", "simd", "threads")}
    machine_info["platform"] = platform.platform()
    machine_info["threads"] = torch.get_num_threads()
    machine_info["versions"] = versions()
    machine_info["small"] = SMALL
    if DEVICE.type == "cuda":
        machine_info["gpu"] = torch.cuda.get_device_name()


@pytest.fixture
def measured(request, benchmark):
    """measured(build, case, peer): one row of the group build(case).

    The first row of a group that is asked for measures all of its rows that were selected.
    """

    def report(build, case, peer):
        group, results = _group(request, build, case)
        result = results[peer]
        if isinstance(result, LeftOut):
            entry = {"group": group.name, "peer": peer, "reason": str(result)}
            if entry not in LEFT_OUT:
                LEFT_OUT.append(entry)
            pytest.skip(str(result))
        if isinstance(result, Exception):
            raise result
        benchmark.group = group.name
        replay(benchmark, result.seconds)
        benchmark.extra_info.update(_extra(group, peer, result))

    return report


_last: tuple = (None, None, None)


def _group(request, build, case):
    """Only the last group is kept: its tables may be large."""
    global _last
    key = (build, case)
    if _last[0] != key:
        _last = (None, None, None)
        names = [
            item.callspec.params["peer"]
            for item in request.session.items
            if item.path == request.path
            and item.originalname == request.node.originalname
            and item.callspec.params["case"] == case
        ]
        group = build(case)
        results = harness.measure(group, names)
        group.makers, group.check = {}, None  # they hold the tables
        _last = (key, group, results)
    return _last[1:]


def _extra(group, peer, row) -> dict:
    seconds = quantile(row.seconds, 0.5)
    extra = {
        "op": group.op,
        "mode": group.mode,
        "size": group.size,
        "peer": peer,
        "outputs": group.outputs,
        "p20": quantile(row.seconds, 0.2),
        "p80": quantile(row.seconds, 0.8),
        "peak memory": row.peak_bytes,
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": COMMIT,
        **group.info,
    }
    if group.num_bytes:
        extra |= {
            "bytes": group.num_bytes,
            "GB/s": group.num_bytes / seconds / 1e9,
            "copy GB/s": row.copy_rate / 1e9,
            "of copy": group.num_bytes / seconds / row.copy_rate,
        }
    return extra
