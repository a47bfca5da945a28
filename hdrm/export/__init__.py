"""What leaves a run: vectors and indices for other systems, lists of recommendations."""

from __future__ import annotations

from .files import Exported, export
from .forms import FORMS, item_vectors, scale_of, user_vectors
from .lists import write_lists

__all__ = [
    "FORMS",
    "Exported",
    "export",
    "item_vectors",
    "scale_of",
    "user_vectors",
    "write_lists",
]
