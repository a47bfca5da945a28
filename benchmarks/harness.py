"""Inputs and calls that the benchmarks share."""

from __future__ import annotations

import torch

import hdrm

ROWS, WIDTH = 200_000, 64


def with_backward(run, *inputs):
    """A call that returns the gradient of the first input for fixed weights of the result."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    weights = torch.randn(run(*inputs).shape, generator=torch.Generator().manual_seed(1))
    return lambda: torch.autograd.grad(run(*leaves), leaves, weights)[0]


def tangent_rows(rows: int, width: int, seed: int = 0, radius: float = 1.0):
    u = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    u[:, 0] = 0
    return u * (radius / width**0.5)


def reference(run, *inputs):
    """The float64 result of the reference backend."""
    with hdrm.use_backend("reference"):
        return run(*(tensor.double() for tensor in inputs))
