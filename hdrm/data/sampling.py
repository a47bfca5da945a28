"""A pseudo-random order of 0 … n−1 that is not stored: an epoch's order of the interactions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..seeds import derive_seed, hashed

ROUNDS = 6


def shuffled(index: Tensor, size: int, seed: int) -> Tensor:
    """The numbers at the positions ``index`` of a pseudo-random order of 0 … size−1.

    A Feistel network on the k bits of size − 1: (a, b) → (b, a ⊕ F_r(b)) is a bijection of 0 … 2ᵏ−1
    for any F, here a hash; every round swaps the widths ⌊k/2⌋ and ⌈k/2⌉ of a and b. A result that is
    not below ``size`` goes through the network again (cycle walking, less than two passes on
    average): what is left is a bijection of 0 … size−1, in memory of the order of ``index``.

    Args:
        index: int64, each in 0 … size−1.
        size: n ≥ 1.
        seed: of the order.

    Returns:
        int64 of index's shape; all n positions together give every number once.

    Source: Black, Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002.
    """
    width = (size - 1).bit_length()
    keys = [derive_seed(seed, r) for r in range(ROUNDS)]
    found = _network(index, width, keys)
    outside = torch.nonzero(found >= size, as_tuple=True)
    while outside[0].numel():
        again = _network(found[outside], width, keys)
        found[outside] = again
        outside = tuple(axis[again >= size] for axis in outside)
    return found


def _network(x: Tensor, width: int, keys: list[int]) -> Tensor:
    """A bijection of the numbers of ``width`` bits; an even number of keys."""
    wide_a, wide_b = width // 2, width - width // 2
    a, b = x >> wide_b, x & (2**wide_b - 1)
    for key in keys:
        a, b = b, (a ^ hashed(key, b)) & (2**wide_a - 1)
        wide_a, wide_b = wide_b, wide_a
    return (a << wide_b) | b
