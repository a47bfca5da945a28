"""Functions called in several real processes at once, which meet through a file and exchange by gloo.

The processes stay from one call to the next, for they take seconds to start.
"""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

SECONDS = 120  # that a call may take

_workers: list = []  # process and pipe of each


def in_processes(mesh: tuple[int, int], function, *arguments) -> list:
    """What ``function(world, *arguments)`` returns in each of R·C processes: tensors and numbers.

    ``function`` is one of a module. Fails with what the first process that failed says.
    """
    size = mesh[0] * mesh[1]
    while len(_workers) < size:
        _workers.append(_started())
    with tempfile.TemporaryDirectory() as folder:
        for rank, (_, pipe) in enumerate(_workers[:size]):
            pipe.send((rank, size, mesh, folder, function, arguments))
        for rank, (_, pipe) in enumerate(_workers[:size]):
            said = pipe.recv() if pipe.poll(SECONDS) else "it did not come to an end"
            if said:
                end()
                raise AssertionError(f"process {rank} of {size}: {said}")
        return [torch.load(Path(folder) / str(rank), weights_only=True) for rank in range(size)]


@atexit.register
def end() -> None:
    """Kill the processes; the next call starts others."""
    while _workers:
        process, _ = _workers.pop()
        process.kill()
        process.join()


def _started():
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, os.getpid()), daemon=True)
    process.start()
    return process, here


def _serve(pipe, parent: int) -> None:
    # A test's module can go by the name tests.NAME, which `pytest` need not have made importable.
    sys.path.append(str(Path(__file__).parents[1]))
    torch.set_num_threads(1)
    while os.getppid() == parent:
        if not pipe.poll(5):
            continue
        try:
            _call(*pipe.recv())
            pipe.send("")
        except BaseException:  # noqa: BLE001 - the test raises it
            pipe.send(traceback.format_exc())


def _call(rank: int, size: int, mesh: tuple[int, int], folder: str, function, arguments) -> None:
    from hdrm.distributed.world import World

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    try:
        found = function(World(torch.device("cpu"), mesh), *arguments)
        torch.save(found, Path(folder) / str(rank))
        dist.barrier()
    finally:
        dist.destroy_process_group()
