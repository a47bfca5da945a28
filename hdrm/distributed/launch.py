"""Joining the processes that torchrun has started."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from ..config import Config
from .meeting import WAIT, Meeting
from .world import World


def started() -> bool:
    """Whether torchrun started this process; one of one is several too."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def joined(device: str, mesh: str | None = None) -> Iterator[World]:
    """In the ``with`` block the processes are connected; they meet within a minute.

    An error of one ends the others too, whose connections break. The first that fails says why, with
    its number; the others end with exit code 2 and nothing to say.

    Args:
        device: "cpu": they exchange by gloo. "cuda": by NCCL, and each takes the GPU of its local
            rank.
        mesh: "RxC", row groups × column slices; None for one column slice.

    Raises:
        RuntimeError: not all came; or what went wrong in the block, or at the start: a mesh that is not
            of as many processes, no such device here.
        SystemExit: another process fails, and says why.
    """
    meeting = None
    try:
        meeting = Meeting()
        yield _connected(meeting, device, mesh)
    except Exception as error:
        # The end of the process breaks its connections: to part from the others can mean to wait.
        if meeting is not None and not meeting.first_to_fail():
            raise SystemExit(2) from error
        told = isinstance(error, (OSError, ValueError, TypeError, RuntimeError, ImportError))
        if told:  # of others the traceback says more
            raise RuntimeError(f"{_place()}: {_words(error)}") from error
        raise
    else:
        dist.destroy_process_group()


def refuse(config: Config) -> None:
    """ValueError for settings that need one process."""
    for name, value, other in (
        ("tables_on", "host", "device: each process has a part of the table"),
        ("work_tables", "bfloat16", "float32"),
        ("conditioning", "pair", "history"),
    ):
        if getattr(config, name) == value:
            raise ValueError(
                f"several processes cannot train with {name} = {value}; set {name} = {other}"
            )


def _connected(meeting: Meeting, device: str, mesh: str | None) -> World:
    # Looked at when all are here, so that a mistake of all is told by one.
    store, shape = meeting.meet(), shape_of(mesh)
    kind, local = device.split(":")[0], int(os.environ.get("LOCAL_RANK", "0"))
    if kind == "cuda":
        count = torch.cuda.device_count()
        if local >= count:
            raise ValueError(
                f"needs the GPU cuda:{local}, here are {count}; start fewer processes a machine, or "
                f"take --device cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group(
        "gloo",
        store=store,
        rank=meeting.rank,
        world_size=meeting.size,
        timeout=timedelta(seconds=WAIT),
    )
    # Behind both nobody can fail, and be gone, while others still connect to it.
    dist.barrier()
    world = World(torch.device(device), shape)
    world.barrier()
    return world


def _place() -> str:
    rank, size = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
    return f"process {rank} of {size}"


def _words(error: Exception) -> str:
    if isinstance(error, dist.DistError) or "gloo" in str(error):
        return (
            f"lost the connection to another one, which was killed or has failed; torchrun "
            f"--max-restarts N starts all again, and the same command goes on ({error})"
        )
    return str(error)


def shape_of(mesh: str | None) -> tuple[int, int] | None:
    """(8, 4) from "8x4", None from None; ValueError for another text."""
    if mesh is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", mesh)
    if not found:
        raise ValueError(f"a mesh is ROWSxCOLUMNS, such as 8x8, got {mesh!r}")
    return int(found[1]), int(found[2])
