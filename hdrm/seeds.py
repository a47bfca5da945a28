"""Seeds for the random streams of one run."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A seed in 0 … 2⁶²−1 from several parts, so that the streams of one run do not meet."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2
