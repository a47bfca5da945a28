"""Philox4x32-10, the counter-based random stream of all backends, in plain torch.

The stream follows triton.language: the key is the 64-bit seed, the counter (low, high, 0, 0) of a
64-bit index, exactly ``tl.randint4x(seed, index)`` and ``tl.randn4x(seed, index)``. Integers are
equal bit for bit in every backend, whatever the launch shape, thread count or device.

Source of the generator: Salmon, Moraes, Dror, Shaw, *Parallel random numbers: as easy as 1, 2, 3*,
SC 2011.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_MASK = 0xFFFFFFFF


def seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """The seed as an int64 tensor of shape (1,) on ``device``.

    ``None`` draws it from torch's generator of that device, so ``torch.manual_seed`` rules and
    nothing waits for the device.
    """
    if seed is None:
        return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.shape != (1,):
            raise TypeError(
                f"seed must be an int, None or an int64 tensor of shape (1,), got {seed.dtype} "
                f"of shape {tuple(seed.shape)}"
            )
        return seed.to(device)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, None or a tensor, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")
    return torch.full((1,), seed, dtype=torch.int64, device=device)


def _high(a: int, b: Tensor) -> Tensor:
    """Upper 32 bits of the product of two unsigned 32-bit numbers held in int64."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16


def randint4x(seed: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four unsigned 32-bit integers, held in int64, for every 64-bit index."""
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    c0, c1 = index & _MASK, (index >> 32) & _MASK
    c2 = c3 = torch.zeros_like(c0)
    for _ in range(10):
        c0, c1, c2, c3 = (
            _high(_ROUND_B, c2) ^ c1 ^ k0,
            (_ROUND_B * c2) & _MASK,
            _high(_ROUND_A, c0) ^ c3 ^ k1,
            (_ROUND_A * c0) & _MASK,
        )
        k0, k1 = (k0 + _KEY_A) & _MASK, (k1 + _KEY_B) & _MASK
    return c0, c1, c2, c3


def _uniform(bits: Tensor) -> Tensor:
    """float32 in [0, 1): the 32 bits read as signed, negative ones complemented, over 2³¹."""
    return torch.where(bits >= 2**31, _MASK - bits, bits).float() * 4.6566127342e-10


def randn4x(seed: Tensor, index: Tensor) -> Tensor:
    """float32 normal numbers of shape (*index.shape, 4), by Box–Muller."""
    u = [_uniform(bits) for bits in randint4x(seed, index)]
    normals = []
    for u1, u2 in (u[:2], u[2:]):
        radius, angle = torch.sqrt(-2 * torch.log(u1.clamp(min=1e-7))), 6.283185307179586 * u2
        normals += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(normals, -1)


def bounded(seed: Tensor, index: Tensor, bound: Tensor) -> Tensor:
    """Integers in [0, bound) for 0 < bound < 2³¹: the upper half of a 64-bit draw times bound."""
    high, low, _, _ = randint4x(seed, index)
    return (high * bound + ((low * bound) >> 32)) >> 32
