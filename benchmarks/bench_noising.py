"""The forward diffusion step: hdrm's noise made in the kernel, and torch.randn."""

from __future__ import annotations

import pytest
import torch
from harness import OURS, ROWS, WIDTH, tangent_rows

from hdrm import ops

Z0 = tangent_rows(ROWS, WIDTH)
T = torch.arange(ROWS) % 50
ALPHA_BAR = torch.linspace(0.999, 0.5, 50, dtype=torch.float64)


def eager(z0, t, alpha_bar):
    """The authors' order of steps."""
    level = alpha_bar[t].float()[:, None]
    noise = torch.sign(z0) * torch.randn_like(z0).abs()
    noise = z0.mean(0) + z0.std(0) * noise
    return level.sqrt() * z0 + (1 - level).sqrt() * noise


@pytest.mark.parametrize("peer", [*OURS, "torch"])
def test_directional_noise(timed, peer):
    function = ops.directional_noise if peer in OURS else eager
    group = f"directional noise {ROWS}x{WIDTH}"
    timed(group, peer, lambda: function(Z0, T, ALPHA_BAR), None, 3 * Z0.numel() * 4)
