"""Seeds for the random streams of one run, and random numbers that are functions of a counter."""

from __future__ import annotations

import hashlib

from torch import Tensor

# SplitMix64's increment and multipliers, as signed numbers: int64 products wrap around as unsigned.
_INCREMENT = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def derive_seed(*parts: int | str) -> int:
    """A seed in 0 … 2⁶²−1 from several parts, so that the streams of one run do not meet."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 2


def hashed(seed: int | Tensor, counter: Tensor) -> Tensor:
    """64 random bits for every counter: SplitMix64's output number ``counter`` of the stream ``seed``.

    Args:
        seed: 64 bits, one for all counters or int64 of a shape that broadcasts: a hash is a seed.
        counter: int64.

    Returns:
        int64, all 64 bits of it random; the same on every device.

    About ten operations, a tenth of Philox's: for numbers that decide which rows a step reads.

    Source: Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014.
    """
    x = counter * _INCREMENT + seed
    x = (x ^ _shifted(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shifted(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shifted(x, 31)


def uniform(seed: int | Tensor, counter: Tensor) -> Tensor:
    """float64 in [0, 1), a multiple of 2⁻⁵³, for every counter; arguments as :func:`hashed`."""
    return _shifted(hashed(seed, counter), 11).double() * 2.0**-53


def pair_bits(seed: int, a: Tensor, b: Tensor, width: int) -> Tensor:
    """32 random bits for every pair (a, b) of int64 ids, 0 ≤ b < width: int64 in 0 … 2³²−1."""
    return _shifted(hashed(seed, a * width + b), 32)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits of unsigned numbers; torch shifts the sign in."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
