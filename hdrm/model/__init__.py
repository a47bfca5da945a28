"""HDRM: the encoder, the diffusion and what is stored of them."""

from __future__ import annotations

from .hdrm import HDRM

__all__ = ["HDRM"]
