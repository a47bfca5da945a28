"""The maps and the distance of one row in 150-digit arithmetic, from their textbook definitions.

No formula of the kernels takes part: here the cancellation is simply paid for with digits. A row
is the list of its spatial coordinates; results of the maps carry their time coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mpmath import MPContext, mpf
from torch import Tensor

mp = MPContext()  # a context of its own: whoever else uses mpmath keeps their precision
mp.dps = 150


def row(tensor: Tensor) -> list[mpf]:
    """The exact values of a row; the time coordinate is left out."""
    return [mp.mpf(value) for value in tensor.tolist()[1:]]


def lift(xs, c):
    return [mp.sqrt(1 / mp.mpf(c) + mp.fdot(xs, xs)), *xs]


def minkowski(x, y):
    return mp.fdot(x[1:], y[1:]) - x[0] * y[0]


def expmap0(us, c):
    theta = mp.sqrt(mp.fdot(us, us) * mp.mpf(c))
    return lift([mp.sinh(theta) / theta * u if theta else u for u in us], c)


def logmap0(xs, c):
    z = mp.sqrt(mp.fdot(xs, xs))
    length = mp.acosh(lift(xs, c)[0] * mp.sqrt(mp.mpf(c))) / mp.sqrt(mp.mpf(c))
    return [mp.zero, *(length * v / z if z else v for v in xs)]


def project(xs, c):
    return lift(xs, c)


def distance(xs, ys, c):
    product = -minkowski(lift(xs, c), lift(ys, c)) * mp.mpf(c)
    return mp.acosh(max(product, mp.one)) / mp.sqrt(mp.mpf(c))


def sqdist(xs, ys, c):
    return distance(xs, ys, c) ** 2


def sqdist0(us, vs, c):
    return sqdist(expmap0(us, c)[1:], expmap0(vs, c)[1:], c)


def tangent(xs, vs, c):
    return [mp.fdot(xs, vs) / lift(xs, c)[0], *vs]


def expmap(xs, vs, c):
    v = tangent(xs, vs, c)
    theta = mp.sqrt(minkowski(v, v) * mp.mpf(c))
    factor = mp.sinh(theta) / theta if theta else mp.one
    return lift([mp.cosh(theta) * x + factor * w for x, w in zip(xs, vs)], c)


def logmap(xs, ys, c):
    x, y = lift(xs, c), lift(ys, c)
    product = minkowski(x, y) * mp.mpf(c)
    direction = [b + product * a for a, b in zip(x, y)]
    norm = mp.sqrt(abs(minkowski(direction, direction)))
    return [distance(xs, ys, c) / norm * v for v in direction] if norm else direction


def transport(xs, ys, vs, c):
    x, y, v = lift(xs, c), lift(ys, c), tangent(xs, vs, c)
    factor = minkowski(y, v) / (1 / mp.mpf(c) - minkowski(x, y))
    return [w + factor * (a + b) for w, a, b in zip(v, x, y)]


def sqdist_gradient(xs, ys, c):
    """∂d²/∂xs and ∂d²/∂ys with x0 = √(K + |xs|²): the chain rule through d = r·arcosh(p).

    p = (x0·y0 − xs·ys)/K,  ∂p/∂xs = ((y0/x0)·xs − ys)/K,  ∂d²/∂p = 2K·arcosh(p)/√(p² − 1).
    """
    K = 1 / mp.mpf(c)
    x, y = lift(xs, c), lift(ys, c)
    p = -minkowski(x, y) / K
    # At p = 1 the factor tends to 2K; 1e-60 is far above the rounding and below any pair's p − 1.
    factor = 2 * mp.acosh(p) / mp.sqrt(p * p - 1) if p - 1 > mp.mpf("1e-60") else mp.mpf(2)
    return (
        [factor * (y[0] / x[0] * a - b) for a, b in zip(xs, ys)],
        [factor * (x[0] / y[0] * b - a) for a, b in zip(xs, ys)],
    )


def expmap0_pullback(us, gs, c):
    """The spatial gradient gs at expmap0(us), carried back to us: coshθ along, sinhθ/θ across."""
    uu = mp.fdot(us, us)
    theta = mp.sqrt(uu * mp.mpf(c))
    if not theta:
        return gs
    across, along = mp.sinh(theta) / theta, mp.fdot(us, gs) / uu
    return [across * g + (mp.cosh(theta) - across) * along * u for u, g in zip(us, gs)]


def sqdist0_gradient(us, vs, c):
    gradients = sqdist_gradient(expmap0(us, c)[1:], expmap0(vs, c)[1:], c)
    return tuple(expmap0_pullback(u, g, c) for u, g in zip((us, vs), gradients))


def distance_gradient(xs, ys, c):
    """∂d/∂xs and ∂d/∂ys; 0 at x = y, where there is none."""
    twice = 2 * distance(xs, ys, c)
    if twice < mp.mpf("1e-60"):
        return [mp.zero for _ in xs], [mp.zero for _ in ys]
    return tuple([g / twice for g in gs] for gs in sqdist_gradient(xs, ys, c))


def jacobian(function: Callable, rows: Sequence[list], c) -> list[list[list]]:
    """∂function(*rows, c)/∂row by central differences: for each row a list of slopes per entry.

    The step is 1e-40 of the row's length (of r at a row of zeros): the error of the quotient is
    the square of that, its rounding 1e-150/1e-40, both far below what is measured.
    """
    rows = [list(values) for values in rows]
    found = []
    for values in rows:
        size = mp.sqrt(mp.fdot(values, values)) or mp.sqrt(1 / mp.mpf(c))
        step, slopes = size * mp.mpf("1e-40"), []
        for i, here in enumerate(values):
            values[i] = here + step
            above = function(*rows, c)
            values[i] = here - step
            below = function(*rows, c)
            values[i] = here
            slopes.append([(a - b) / (2 * step) for a, b in zip(above, below)])
        found.append(slopes)
    return found


def relative_error(found, expected) -> float:
    """‖found − expected‖ / ‖expected‖ of a row or a number (absolute where expected is 0)."""
    found = [mp.mpf(value) for value in (found if isinstance(found, list) else [found])]
    expected = expected if isinstance(expected, list) else [expected]
    error = mp.norm([a - b for a, b in zip(found, expected, strict=True)])
    size = mp.norm(expected)
    return float(error / size) if size > mp.mpf("1e-60") else float(error)
