"""Folders that are whole or not there: written under another name and renamed when complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

LOCK_FILE = "lock.tmp"


def refuse_occupied(folder: Path, what: str) -> None:
    """FileExistsError unless ``folder`` is missing or empty; ``what`` would be written into it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = "is not empty" if folder.is_dir() else "is a file"
        raise FileExistsError(f"{folder} {found}; name another folder for the {what}")


@contextlib.contextmanager
def partial_folder(folder: Path, needed: int) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that becomes it, or is removed on any exception.

    A killed process cannot remove its own. The lock, which dies with the process, tells them from
    those at work, and whoever writes the folder next removes them.

    Raises OSError that names ``needed`` and the free bytes if the disk is, or becomes, too full.
    """
    parent = folder.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(f"{glob.escape(folder.name)}.partial-*"):
        with contextlib.suppress(OSError), (stale / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise _disk_full(folder, needed, free)
    partial = parent / f"{folder.name}.partial-{secrets.token_hex(4)}"
    partial.mkdir()
    try:
        with (partial / LOCK_FILE).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield partial
            os.replace(partial, folder)
            (folder / LOCK_FILE).unlink()
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _disk_full(folder, needed, shutil.disk_usage(parent).free) from None
        raise


def _disk_full(folder: Path, needed: int, free: int) -> OSError:
    return OSError(
        errno.ENOSPC,
        f"{folder}: the disk is full: what is to be written takes {needed:,} bytes or more, "
        f"{free:,} are free; free some, or name a folder on another disk",
    )
