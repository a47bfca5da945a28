"""Host memory: amounts as people write them, and what large results leave behind for the next ones.

Results of 4 MiB and more of the CPU kernels live in blocks that are not given back to the system when
the tensor dies: the next result of such a size takes them. That saves the page faults of new memory,
which take longer than the kernels do. At most a sixteenth of the machine's memory and 1 GiB are kept
unused, and used and unused together never exceed the most that was in use at one time; the
environment variable HDRM_KEPT_MEMORY sets another amount (``0``: nothing is kept).
"""

from __future__ import annotations

import os
import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
VARIABLE = "HDRM_KEPT_MEMORY"


def parse_bytes(text: str) -> int:
    """Bytes from "8GiB", "500 MB", "1e9" or "0".

    Raises:
        ValueError: not such a text.
    """
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d+)?)\s*([kmgt]i?)?b?\s*", text.lower())
    size = float(found[1]) * _UNITS[found[2] or ""] if found else -1.0
    if not 0 <= size < 2**63:
        raise ValueError(f"expected an amount of memory such as 8GiB or 500MB, got {text!r}")
    return int(size)


def kept_by_default() -> int:
    """Bytes to keep: HDRM_KEPT_MEMORY, or a sixteenth of the machine's memory, at most 1 GiB.

    Raises:
        ValueError: HDRM_KEPT_MEMORY is no amount of memory.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16, 2**30)
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None


def keep(num_bytes: int) -> int:
    """Keep at most so many bytes of unused memory from now on; those freed now are returned.

    ``keep(0)`` gives everything back. Without the compiled kernels nothing is kept anyway.

    Raises:
        ValueError: a negative number.
    """
    from . import native

    if num_bytes < 0:
        raise ValueError(f"num_bytes must not be negative, got {num_bytes}")
    module = native.load()
    return module.keep_memory(num_bytes) if module else 0


def format_bytes(size: int) -> str:
    """An amount of memory for a person: "410 MiB"."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
