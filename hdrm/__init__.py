"""hdrm: fused kernels for hyperbolic learning on graphs and recommendation.

``hdrm.ops`` holds the kernels as functions, ``hdrm.Lorentz`` and ``hdrm.optim`` are drop-in
replacements for geoopt's, ``hdrm.HDRM`` is the recommender. What needs geoopt or the data readers
is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from . import ops
from .graph import CSR, BipartiteGraph
from .native import info as build_info
from .ops import available_backends, use_backend

if TYPE_CHECKING:
    from . import data, optim
    from .manifold import Lorentz
    from .model import HDRM

__version__ = "0.1.0"

__all__ = [
    "CSR",
    "HDRM",
    "BipartiteGraph",
    "Lorentz",
    "available_backends",
    "build_info",
    "data",
    "ops",
    "optim",
    "use_backend",
]

_LAZY = {"Lorentz": "manifold", "HDRM": "model", "optim": None, "data": None}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'hdrm' has no attribute {name!r}")
    home = _LAZY[name]
    module = importlib.import_module(f".{home or name}", __name__)
    value = module if home is None else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
