"""Joining the processes that torchrun has started."""

from __future__ import annotations

import os
import re
from datetime import timedelta

import torch
import torch.distributed as dist

from ..config import Config
from .world import World

MINUTE = timedelta(minutes=1)


def started() -> bool:
    """Whether torchrun started this process; one of one is several too."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(device: str, mesh: str | None = None) -> World:
    """Meet the other processes, within a minute.

    Args:
        device: "cpu": they exchange by gloo. "cuda": by NCCL, and each takes the GPU of its local
            rank.
        mesh: "RxC", row groups × column slices; None for one column slice.

    Raises:
        ValueError: a mesh that is not of as many processes, or no such device here.
        RuntimeError: not all came within a minute; which this one is, and whom it waited for.
    """
    place, local = _place(), int(os.environ.get("LOCAL_RANK", "0"))
    kind = device.split(":")[0]
    if kind == "cuda":
        count = torch.cuda.device_count()
        if local >= count:
            raise ValueError(
                f"{place}: needs the GPU cuda:{local}, here are {count}; start fewer processes a "
                f"machine, or take --device cpu"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    shape = _shape(mesh)
    try:
        dist.init_process_group("gloo", timeout=MINUTE)
        dist.monitored_barrier(timeout=MINUTE, wait_all_ranks=True)
    except (RuntimeError, ValueError) as error:
        where = ":".join(os.environ.get(f"MASTER_{name}", "?") for name in ("ADDR", "PORT"))
        raise RuntimeError(
            f"{place} did not meet all others at {where} within a minute: {error}"
        ) from error
    return World(torch.device(device), shape)


def refuse(config: Config) -> None:
    """ValueError for settings that need one process."""
    for name, value, other in (
        ("tables_on", "host", "device: each process has a part of the table"),
        ("work_tables", "bfloat16", "float32"),
        ("conditioning", "pair", "history"),
    ):
        if getattr(config, name) == value:
            raise ValueError(f"several processes cannot train with {name} = {value}; set {name} = {other}")


def leave() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _place() -> str:
    rank, size = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
    return f"process {rank} of {size}"


def _shape(mesh: str | None) -> tuple[int, int] | None:
    if mesh is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", mesh)
    if not found:
        raise ValueError(f"a mesh is ROWSxCOLUMNS, such as 8x8, got {mesh!r}")
    return int(found[1]), int(found[2])
