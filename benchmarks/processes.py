"""A process of its own for what is to be measured: its time and its peak memory.

The caller should be small, for on Linux a new process begins with the peak of the one that made it:
without torch, say.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, NamedTuple

MIB = 2**20


class Measured(NamedTuple):
    """What a process came to."""

    seconds: float
    peak: int  # bytes of the largest resident set, mapped files and libraries included
    output: str


def run(arguments: Sequence[str], log: IO | None = None) -> Measured:
    """Run this Python with arguments; its output, unless that goes into ``log``.

    Raises:
        RuntimeError: it ended with another code than 0.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=log or subprocess.PIPE,
        stderr=log and subprocess.STDOUT,
        text=True,
    ) as process:
        output = "" if log else process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        where = f"see {log.name}" if log else "see above"
        raise RuntimeError(f"{' '.join(arguments)} ended with code {process.returncode}; {where}")
    return Measured(time.perf_counter() - start, usage.ru_maxrss * 1024, output)
