"""Points as vectors that other systems can rank.

    tangent         logmap0(u)          logmap0(i)      for models on top; its order is another
    lorentz         u                   i               points (u0, us), u0 = √(1/c + |us|²)
    inner-product   q = (−u0, us)       i               nearest = largest q·i
    euclidean       q = (t·us/u0, 0)    x = (is, a_i)   nearest = smallest |q − x|

The Lorentz distance d(u, i) = arcosh(−c⟨u,i⟩)/√c ascends with −⟨u,i⟩ = u0·i0 − us·is = −q·i: to rank
by it is maximum inner product search. For one user it also ascends with i0 − (us/u0)·is, and

    |is − t·us/u0|² + a_i² = 2t·(i0 − (us/u0)·is) + const(u)   if   a_i² = (t − m)² − (t − i0)²,

since |is|² = i0² − 1/c. With t = max i0 and m = min i0 no a_i² is negative, and the order is that of
Euclidean distances, exactly, in vectors of the same width. It needs no large constant: near the origin
i0 is almost 1/√c for all items, which an inner product has to cancel in float32.

Graph indices find little by inner product (docs/serving.md has figures), since the items near a query
in that sense are not near each other; in the last form they are. It does what the augmentation of
Bachrach et al. (*Speeding up the Xbox recommender system*, RecSys 2014) does for any inner product, and
keeps the items' spatial parts as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops

FORMS = ("tangent", "lorentz", "inner-product", "euclidean")


def user_vectors(
    points: Tensor, form: str, *, c: float = 1.0, scale: float | None = None
) -> Tensor:
    """The form that is ranked for, of users' points (B, d+1): those of a model, or folded in.

    Args:
        scale: t, which "euclidean" needs: :func:`scale_of` the items, stored with an export.

    Returns:
        (B, d+1), dtype as the points.

    Raises:
        ValueError: an unknown form, or "euclidean" without a scale.
    """
    if _known(form) == "inner-product":
        return torch.cat([-points[:, :1], points[:, 1:]], 1)
    if form == "euclidean":
        if scale is None:
            raise ValueError("the form 'euclidean' needs the scale of its items, scale_of(items)")
        return F.pad(points[:, 1:] * (scale / points[:, :1]), (0, 1))
    return ops.logmap0(points, c=c) if form == "tangent" else points


def item_vectors(points: Tensor, form: str, *, c: float = 1.0) -> Tensor:
    """The form that is ranked, of all items' points (I, d+1); as :func:`user_vectors`."""
    if _known(form) == "euclidean":
        time = points[:, :1]
        low, high = time.aminmax()
        square = (time - low) * ((high - time) + (high - low))
        return torch.cat([points[:, 1:], square.sqrt()], 1)
    return ops.logmap0(points, c=c) if form == "tangent" else points


def scale_of(items: Tensor) -> float:
    """t of the form "euclidean": the largest time coordinate of the items' points (I, d+1)."""
    return float(items[:, 0].max())


def _known(form: str) -> str:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    return form
