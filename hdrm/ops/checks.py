"""What every op asks of its arguments; each refusal says what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64)
STORAGE = (torch.bfloat16, torch.float16)  # of tangent vectors, beside DTYPES
_STRIDED = torch.strided


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels compute in, and of the points and numbers they return."""
    return torch.float32 if dtype in STORAGE else dtype


def curvature(c: float) -> float:
    """``c`` as a float, refused unless finite and positive (the space has curvature -c)."""
    if isinstance(c, Tensor):
        raise TypeError(
            "c must be a Python number, got a tensor; pass c=float(c) (the ops have no gradient "
            "with respect to the curvature)"
        )
    if not isinstance(c, (float, int)) and not hasattr(c, "__float__"):
        raise TypeError(f"c must be a number, got {type(c).__name__}")
    if not 0.0 < c < math.inf:
        raise ValueError(
            f"c must be positive and finite (the hyperboloid has curvature -c), got {c!r}"
        )
    return float(c)


def whole(op: str, name: str, value: int) -> None:
    """Refuse what is not a whole number; its range is the op's to look at."""
    if not isinstance(value, (int, np.integer)):
        raise TypeError(f"{op}: {name} must be a whole number, got {value!r}")


def rows(op: str, *, storage: bool = False, **tensors: Tensor) -> list[Tensor]:
    """The tensors broadcast to one shape (..., d+1), all of one device and dtype.

    storage: they are tangent vectors, which may be kept in 16 bits.
    """
    if _fit(tensors.values()):
        return list(tensors.values())
    _check(op, storage, tensors)
    first, *others = tensors.values()
    if all(tensor.shape == first.shape for tensor in others):
        return [first, *others]
    try:
        return list(torch.broadcast_tensors(first, *others))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{op}: the shapes do not broadcast: {shapes}") from None


def _check(op: str, storage: bool, tensors: dict[str, Tensor]) -> None:
    """Refuse what are not rows of one width, dtype and device."""
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} must be a tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise TypeError(
                f"{op}: {name} must be a dense tensor, got {tensor.layout}; convert it with "
                f".to_dense()"
            )
        if tensor.dtype in STORAGE and not storage:
            raise TypeError(
                f"{op}: {name} must be float32 or float64, got {tensor.dtype}. 16 bits cannot "
                f"hold a point: from a radius of about {3.5 if tensor.dtype == torch.bfloat16 else 4.5} "
                f"on, -x0^2 + |xs|^2 is rounding, not -1/c. Keep tangent vectors in 16 bits "
                f"(logmap0, expmap0) and points in float32"
            )
        if tensor.dtype not in DTYPES + STORAGE:
            raise TypeError(
                f"{op}: {name} must be float32 or float64, got {tensor.dtype}; convert it with "
                f".float()"
            )
        if tensor.dim() < 1 or tensor.shape[-1] < 2:
            raise ValueError(
                f"{op}: {name} must have shape (..., d+1) with d >= 1, time coordinate first; "
                f"got {tuple(tensor.shape)}"
            )
        if tensor.shape[-1] != first.shape[-1]:
            raise ValueError(
                f"{op}: {first_name} and {name} must have the same width d+1, got "
                f"{tuple(first.shape)} and {tuple(tensor.shape)}"
            )
        same_as(op, first_name, first, name, tensor)


def _fit(tensors: Collection[Tensor], leading: int = 0, dim: int | None = None) -> bool:
    """Whether these are rows that need no second look: calls with small tables wait for this.

    ``leading``: dimensions that are not compared; a compiled graph is for any sizes of them.
    ``dim``: how many there must be.
    """
    first = None
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.layout is not _STRIDED:
            return False
        if first is None:
            first, shape = tensor, tensor.shape
            if tensor.dtype not in DTYPES or len(shape) <= leading or shape[-1] < 2:
                return False
            if dim is not None and len(shape) != dim:
                return False
        elif (
            tensor.shape[leading:] != shape[leading:]
            or tensor.dtype != first.dtype
            or tensor.device != first.device
        ):
            return False
    return True


def same_as(op: str, first_name: str, first: Tensor, name: str, tensor: Tensor) -> None:
    """Refuse tensors of different devices or dtypes."""
    if tensor.device != first.device:
        raise ValueError(
            f"{op}: {first_name} is on {first.device}, {name} on {tensor.device}; move both to "
            f"one device"
        )
    if tensor.dtype != first.dtype:
        raise TypeError(
            f"{op}: {first_name} is {first.dtype}, {name} is {tensor.dtype}; convert one of them"
        )


def table(op: str, *, storage: bool = False, **tensors: Tensor) -> None:
    """Refuse what is not a floating point matrix (n, d+1)."""
    if _fit(tensors.values(), leading=1, dim=2):
        return
    _check(op, storage, tensors)
    for name, tensor in tensors.items():
        if tensor.dim() != 2:
            raise ValueError(f"{op}: {name} must have shape (n, d+1), got {tuple(tensor.shape)}")


def ids(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Refuse what is not an int64 tensor of the given shape and device (-1: any length)."""
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.int64:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{op}: {name} must be an int64 tensor, got {got}")
    if tensor.shape != shape and (
        tensor.dim() != len(shape)
        or any(want not in (-1, have) for want, have in zip(shape, tensor.shape))
    ):
        raise ValueError(f"{op}: {name} must have shape {shape}, got {tuple(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{op}: {name} must be on {device}, got {tensor.device}")
