"""Philox4x32-10 in Python integers, an oracle that shares nothing with the package."""

from __future__ import annotations

import math

MASK = 0xFFFFFFFF


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Four 32-bit words from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK, (a >> 32) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def randint4x(seed: int, index: int) -> tuple[int, ...]:
    """The package's stream: the seed is the key, the index the lower half of the counter."""
    return philox((index & MASK, index >> 32 & MASK, 0, 0), (seed & MASK, seed >> 32 & MASK))


def randn4x(seed: int, index: int) -> list[float]:
    """Four normal numbers by Box–Muller in double."""
    u = [(MASK - x if x >> 31 else x) * 4.6566127342e-10 for x in randint4x(seed, index)]
    normals = []
    for u1, u2 in (u[:2], u[2:]):
        radius, angle = math.sqrt(-2 * math.log(max(u1, 1e-7))), 2 * math.pi * u2
        normals += [radius * math.cos(angle), radius * math.sin(angle)]
    return normals
