"""How every benchmark here is run: the result is checked, then timed, with the bytes it must move."""

from __future__ import annotations

import platform

import pytest
import torch
from harness import DEVICE, backend_of

import hdrm


def pytest_benchmark_update_machine_info(config, machine_info):
    info = hdrm.build_info()
    machine_info["hdrm"] = {k: info[k] for k in ("hdrm", "torch", "geoopt", "simd", "threads")}
    machine_info["platform"] = platform.platform()
    if DEVICE.type == "cuda":
        machine_info["gpu"] = torch.cuda.get_device_name()


@pytest.fixture
def timed(benchmark):
    """timed(group, peer, run, expected, bytes): check run()'s result once, then time it.

    ``bytes`` are those that an implementation cannot avoid moving; with them a row shows GB/s.
    """

    def run_timed(group, peer, run, expected, num_bytes, tolerance=1e-4):
        with backend_of(peer):
            time_it(group, run, expected, num_bytes, tolerance)

    def until_done(run):
        run()
        torch.cuda.synchronize()

    def time_it(group, run, expected, num_bytes, tolerance):
        found = run()
        if expected is not None:
            error = (found.double() - expected.double()).abs().max()
            scale = expected.double().abs().max()
            assert error <= tolerance * scale, f"wrong result: error {error:.2e} of {scale:.2e}"
        benchmark.group = group
        benchmark.extra_info["bytes"] = num_bytes
        call = (lambda: until_done(run)) if DEVICE.type == "cuda" else run
        benchmark.pedantic(call, rounds=5, iterations=1, warmup_rounds=1)
        if benchmark.stats:
            benchmark.extra_info["GB/s"] = round(num_bytes / benchmark.stats["median"] / 1e9, 2)

    return run_timed
