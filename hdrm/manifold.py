"""The hyperboloid for geoopt, on the kernels of :mod:`hdrm.ops`.

``hdrm.Lorentz(k)`` takes the place of ``geoopt.Lorentz(k)``: same arguments, same layout (time
coordinate first), same module state. What changes is the arithmetic. geoopt forms arcosh of a
Minkowski product, divides by norms clamped at 1e-4 and trusts the stored time coordinate, which
in float32 loses every digit for near points and far from the origin; the kernels do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import geoopt
import torch
from torch import Tensor

from . import ops
from .ops.radial import across, dot, spatial


class Lorentz(geoopt.Lorentz):
    """Lorentz model of curvature −1/k: ⟨x,x⟩ = −x0² + |xs|² = −k, x0 > 0.

    Args:
        k: positive number or one-element tensor; k = K = 1/c in the formulas of
            :mod:`hdrm.ops`. Kept as a frozen parameter, as geoopt does, so it is part of
            ``state_dict`` and moves with the module.
        learnable: must be False, the kernels have no gradient with respect to the curvature.

    Raises:
        ValueError: k is not one positive finite number, or ``learnable`` is set. The methods
            raise what the function of :mod:`hdrm.ops` of the same name raises.

    Points and tangent vectors have shape (..., d+1), float32 or float64, and broadcast. Every
    method has geoopt's signature; differences in meaning:

    * The spatial part is the truth: a stored time coordinate of a point, or of a tangent vector
      given to ``expmap``, ``transp`` and their kin, is not read. Results always lie on the
      manifold, so ``project`` and ``norm_tan`` are accepted and have nothing to switch. A vector
      that is not tangent has to go through ``proju`` (the orthogonal projection) first.
    * ``dist``, ``dist2``, ``norm`` and ``logmap`` have no floor: they are 0 at x = y, with finite
      gradients.
    * ``egrad2rgrad`` leaves its argument as it is; geoopt's flips a sign in place.
    * ``inner`` is geoopt's Minkowski product of any two ambient vectors. ``component_inner``,
      which the optimisers call, is the product of tangent vectors without cancellation, so it is
      not negative at u = v.
    """

    def __init__(self, k: float | Tensor = 1.0, learnable: bool = False) -> None:
        if learnable:
            raise ValueError(
                "hdrm.Lorentz cannot learn its curvature: the kernels have no gradient with "
                "respect to it; use learnable=False, or geoopt.Lorentz(k, learnable=True)"
            )
        if not hasattr(k, "__float__"):
            raise TypeError(f"k must be a number or a tensor of one, got {type(k).__name__}")
        super().__init__(k)
        if self.k.numel() != 1:
            raise ValueError(f"k must be one number, got a tensor of shape {tuple(self.k.shape)}")
        self._read_curvature()
        if not self.k.is_meta and not 0 < self._c < math.inf:
            raise ValueError(
                f"k must be positive and finite (the space has curvature -1/k), got {k}"
            )

    @property
    def c(self) -> float:
        """1/k as a Python number: the ``c`` of :mod:`hdrm.ops`.

        Read from k only after k has changed, so that a manifold on a GPU does not wait for it at
        every call and a compiled graph sees a constant.
        """
        if not torch.compiler.is_compiling():
            tensor, version = self._read_from
            if self.k is not tensor or _version(self.k) != version:
                self._read_curvature()
        return self._c

    def _read_curvature(self) -> None:
        self._read_from = self.k, _version(self.k)
        k = math.nan if self.k.is_meta else self.k.item()
        self._c = 1 / k if k else math.inf

    # What torch runs on .to(...), load_state_dict(...), copying and unpickling: none of them need
    # leave a trace in the version of k, and a compiled graph looks at the number only.

    def _apply(self, *args, **kwargs) -> Lorentz:
        super()._apply(*args, **kwargs)
        self._read_curvature()
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_curvature()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._read_curvature()

    def _call(self, op: Callable[..., Tensor], dim: int, *vectors: Tensor) -> Tensor:
        """``op`` on vectors that lie along ``dim``, as its rows."""
        if dim != -1:
            vectors = tuple(vector.movedim(dim, -1) for vector in vectors)
        return op(*vectors, c=self.c)

    def _vectors(self, op: Callable[..., Tensor], dim: int, *vectors: Tensor) -> Tensor:
        """The vectors that ``op`` makes, put back along ``dim``."""
        found = self._call(op, dim, *vectors)
        return found if dim == -1 else found.movedim(-1, dim)

    def _numbers(
        self, op: Callable[..., Tensor], dim: int, keepdim: bool, *vectors: Tensor
    ) -> Tensor:
        """The number that ``op`` makes of each vector."""
        found = self._call(op, dim, *vectors)
        return found.unsqueeze(dim) if keepdim else found

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """Geodesic distance; :func:`hdrm.ops.distance`."""
        return self._numbers(ops.distance, dim, keepdim, x, y)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """Squared geodesic distance, smooth at x = y too; :func:`hdrm.ops.sqdist`."""
        return self._numbers(ops.sqdist, dim, keepdim, x, y)

    def dist0(self, x: Tensor, *, dim: int = -1, keepdim: bool = False) -> Tensor:
        """Geodesic distance to the origin, √k·asinh(|xs|/√k) = |logmap0(x)|."""
        return self.logmap0(x, dim=dim).norm(dim=dim, keepdim=keepdim)

    def norm(self, u: Tensor, *, keepdim: bool = False, dim: int = -1) -> Tensor:
        """√max(0, ⟨u,u⟩) with gradient 0 at u = 0.

        Without the point u is tangent to, ⟨u,u⟩ is a difference of squares; the length without
        cancellation is ``component_inner(x, u).sqrt()``.
        """
        square = self.inner(None, u, keepdim=keepdim, dim=dim)
        flat = square <= 0
        return torch.where(flat, 0.0, torch.where(flat, 1.0, square).sqrt())

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """⟨u,v⟩ of tangent vectors at x, shape (..., 1): u⊥·v⊥ + k·(u·x̂)(v·x̂)/x0².

        ⊥ is the part of us orthogonal to xs, x̂ = xs/|xs|. Only spatial parts are read, and for
        v = u both terms are squares.
        """
        xs = spatial(x)
        u_along, u_across = across(spatial(u), xs)
        v_along, v_across = (u_along, u_across) if v is None else across(spatial(v), xs)
        xx = dot(xs, xs)
        return dot(u_across, v_across) + u_along * v_along * (xx / (1 + self.c * xx))

    def projx(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """The point with x's spatial part; :func:`hdrm.ops.project`."""
        return self._vectors(ops.project, dim, x)

    def proju(self, x: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """Orthogonal projection of an ambient vector, v + (⟨x,v⟩/k)·x.

        It is :func:`hdrm.ops.egrad2rgrad` without that function's change of sign of v0.
        """

        def project(x: Tensor, v: Tensor, *, c: float) -> Tensor:
            return ops.egrad2rgrad(x, torch.cat([-v[..., :1], spatial(v)], -1), c=c)

        return self._vectors(project, dim, x, v)

    def egrad2rgrad(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Riemannian gradient from the Euclidean u; :func:`hdrm.ops.egrad2rgrad`."""
        return self._vectors(ops.egrad2rgrad, dim, x, u)

    def expmap(
        self, x: Tensor, u: Tensor, *, norm_tan: bool = True, project: bool = True, dim: int = -1
    ) -> Tensor:
        """Exponential map at x; :func:`hdrm.ops.expmap`."""
        return self._vectors(ops.expmap, dim, x, u)

    retr = expmap

    def expmap0(self, u: Tensor, *, project: bool = True, dim: int = -1) -> Tensor:
        """Exponential map at the origin; :func:`hdrm.ops.expmap0`."""
        return self._vectors(ops.expmap0, dim, u)

    def logmap(self, x: Tensor, y: Tensor, *, dim: int = -1) -> Tensor:
        """Logarithmic map at x; :func:`hdrm.ops.logmap`."""
        return self._vectors(ops.logmap, dim, x, y)

    def logmap0(self, y: Tensor, *, dim: int = -1) -> Tensor:
        """Logarithmic map at the origin; :func:`hdrm.ops.logmap0`."""
        return self._vectors(ops.logmap0, dim, y)

    def logmap0back(self, x: Tensor, *, dim: int = -1) -> Tensor:
        """The tangent vector at x that leads to the origin."""
        return self._vectors(ops.logmap, dim, x, _origin_like(x))

    def transp(self, x: Tensor, y: Tensor, v: Tensor, *, dim: int = -1) -> Tensor:
        """Parallel transport from x to y; :func:`hdrm.ops.transport`."""
        return self._vectors(ops.transport, dim, x, y, v)

    def transp0(self, y: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Parallel transport from the origin to y."""
        return self._vectors(ops.transport, dim, _origin_like(y), y, u)

    def transp0back(self, x: Tensor, u: Tensor, *, dim: int = -1) -> Tensor:
        """Parallel transport from x to the origin."""
        return self._vectors(ops.transport, dim, x, _origin_like(x), u)

    def geodesic_unit(
        self, t: Tensor, x: Tensor, u: Tensor, *, dim: int = -1, project: bool = True
    ) -> Tensor:
        """The point at time t on the geodesic from x with unit direction u: expmap(x, t·u)."""
        return self.expmap(x, t * u, dim=dim)

    def _check_point_on_manifold(
        self, x: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5, dim: int = -1
    ) -> tuple[bool, str | None]:
        # geoopt compares −x0² + |xs|² with −k: in float32 rounding alone exceeds any tolerance
        # once x0 is in the hundreds.
        if torch.allclose(x, self.projx(x, dim=dim), atol=atol, rtol=rtol):
            return True, None
        return False, f"'x' has a time coordinate that is not sqrt({1 / self.c} + |xs|^2)"

    def _check_vector_on_tangent(
        self, x: Tensor, u: Tensor, *, atol: float = 1e-5, rtol: float = 1e-5, dim: int = -1
    ) -> tuple[bool, str | None]:
        # v0 = (xs·vs)/x0 is a sum of both signs, of size up to |vs|: that is the scale.
        tangent = self._vectors(ops.project_tangent, dim, x, u)
        error = (u - tangent).norm(dim=dim)
        if bool((error <= atol + rtol * tangent.norm(dim=dim)).all()):
            return True, None
        return False, "the Minkowski inner product of 'x' and 'u' is not zero"


def _version(k: Tensor) -> int:
    """Counts the writes to k; tensors made in inference mode keep no count."""
    return 0 if k.is_inference() else k._version


def _origin_like(x: Tensor) -> Tensor:
    """The origin, for the kernels: they read the spatial part only."""
    return torch.zeros_like(x)
