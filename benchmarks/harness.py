"""Inputs and calls that the benchmarks share. On a machine with a GPU everything runs there."""

from __future__ import annotations

import contextlib

import torch

import hdrm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.set_default_device(DEVICE)
ROWS, WIDTH = 200_000, 64

# Our backends on this device, by the name that a row of the table shows.
OURS = {
    f"hdrm {backend}": backend
    for backend, state in hdrm.ops.available_backends().items()
    if state == "available" and backend in ({"cpu"} if DEVICE.type == "cpu" else {"cuda", "triton"})
}
if not OURS:
    raise RuntimeError(
        f"no compiled kernels for {DEVICE} to compare anything with; `hdrm info` says why"
    )


def backend_of(peer: str):
    """The block in which a row of the table runs: ours on its backend, others as they are."""
    choice = "reference" if peer == "reference" else OURS.get(peer)
    return hdrm.use_backend(choice) if choice else contextlib.nullcontext()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cpu").to(DEVICE)


def with_backward(run, *inputs):
    """A call that returns the gradient of the first input for fixed weights of the result."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    weights = normal(*run(*inputs).shape, seed=1)
    return lambda: torch.autograd.grad(run(*leaves), leaves, weights)[0]


def tangent_rows(rows: int, width: int, seed: int = 0, radius: float = 1.0):
    u = normal(rows, width, seed=seed)
    u[:, 0] = 0
    return u * (radius / width**0.5)


def reference(run, *inputs):
    """The float64 result of the reference backend."""
    with hdrm.use_backend("reference"):
        return run(*(tensor.double() for tensor in inputs))
