"""Interactions: reading, splitting, generating and batching (user, item) pairs.

``hdrm.data.load`` is the door; ``hdrm.data.sampling`` (the only part that needs torch) draws
training batches.
"""

from __future__ import annotations

from hdrm.data.datasets import Dataset
from hdrm.data.loading import load

__all__ = ["Dataset", "load"]
