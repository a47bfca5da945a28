"""Interactions: reading, splitting, generating and shuffling (user, item) pairs.

``hdrm.data.load`` is the door; ``hdrm.data.writers`` writes what it gives into a folder and
``hdrm.data.summary`` describes it; ``hdrm.data.sampling`` has the order of an epoch;
``hdrm.data.graph_files`` builds and reads graphs in files.
"""

from __future__ import annotations

from hdrm.data.datasets import Dataset
from hdrm.data.loading import load

__all__ = ["Dataset", "load"]
