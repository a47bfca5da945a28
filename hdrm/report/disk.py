"""Items in the Poincaré disk: their distances to the origin as they are, their directions as well as
two dimensions hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import ops


def on_disk(distance: np.ndarray, c: float) -> np.ndarray:
    """How far from its centre the unit disk shows what lies at a distance from the origin.

    A point x of the hyperboloid is xs/(1 + √c·x0) in the Poincaré ball of radius 1/√c; the norm of
    that over 1/√c is tanh(√c·d/2).
    """
    return np.tanh(np.sqrt(c) * distance / 2)


@dataclass(frozen=True, eq=False)
class Picture:
    """Positions float64 (n, 2) in the unit disk, distances (n,), and the share of the variance of
    the tangent vectors that lies along the two axes.
    """

    positions: np.ndarray
    distances: np.ndarray
    share: float


def picture(points: Tensor, c: float) -> Picture:
    """The disk of points (n, d+1) on the hyperboloid of curvature −c.

    The direction is that of (v − mean of v) along the first two principal axes of the tangent
    vectors v = logmap0(x): the vectors of a trained encoder share a large mean, which would put all
    of them on one ray. The distance to the origin is the point's own.
    """
    tangent = ops.logmap0(points, c=c)[:, 1:].cpu().double()
    distances = tangent.norm(dim=1).numpy()
    centred = tangent - tangent.mean(0)
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    axes = axes.flip(1)[:, :2]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # the same every time
    flat = np.zeros((len(points), 2))
    flat[:, : axes.shape[1]] = (centred @ axes).numpy()
    angle = np.arctan2(flat[:, 1], flat[:, 0])
    radius = on_disk(distances, c)
    positions = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    total = float(variances.sum())
    share = float(variances.flip(0)[:2].sum()) / total if total > 0 else 1.0
    return Picture(positions, distances, share)
