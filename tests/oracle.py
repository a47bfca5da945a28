"""The maps and the distance of one row in 150-digit arithmetic, from their textbook definitions."""

from __future__ import annotations

import mpmath
from mpmath import mp, mpf

mp.dps = 150


def row(tensor) -> list[mpf]:
    """The exact values of a row; the time coordinate is left out."""
    return [mpf(value) for value in tensor.tolist()[1:]]


def _dot(a, b):
    return mpmath.fsum(x * y for x, y in zip(a, b))


def lift(xs, c):
    return [mpmath.sqrt(1 / mpf(c) + _dot(xs, xs)), *xs]


def minkowski(x, y):
    return -x[0] * y[0] + _dot(x[1:], y[1:])


def expmap0(us, c):
    theta = mpmath.sqrt(_dot(us, us) * mpf(c))
    return lift([mpmath.sinh(theta) / theta * u if theta else u for u in us], c)


def logmap0(xs, c):
    x = lift(xs, c)
    z = mpmath.sqrt(_dot(xs, xs))
    if not z:
        return [mpf(0), *xs]
    length = mpmath.acosh(x[0] * mpmath.sqrt(mpf(c))) / mpmath.sqrt(mpf(c))
    return [mpf(0), *(length * v / z for v in xs)]


def distance(xs, ys, c):
    product = -minkowski(lift(xs, c), lift(ys, c)) * mpf(c)
    return mpmath.acosh(max(product, mpf(1))) / mpmath.sqrt(mpf(c))


def tangent(xs, vs, c):
    return [_dot(xs, vs) / lift(xs, c)[0], *vs]


def expmap(xs, vs, c):
    v = tangent(xs, vs, c)
    theta = mpmath.sqrt(minkowski(v, v) * mpf(c))
    factor = mpmath.sinh(theta) / theta if theta else mpf(1)
    return lift([mpmath.cosh(theta) * x + factor * w for x, w in zip(xs, vs)], c)


def logmap(xs, ys, c):
    x, y = lift(xs, c), lift(ys, c)
    product = minkowski(x, y) * mpf(c)
    direction = [b + product * a for a, b in zip(x, y)]
    norm = mpmath.sqrt(minkowski(direction, direction))
    return [distance(xs, ys, c) / norm * v for v in direction] if norm else direction


def transport(xs, ys, vs, c):
    x, y, v = lift(xs, c), lift(ys, c), tangent(xs, vs, c)
    factor = minkowski(y, v) / (1 / mpf(c) - minkowski(x, y))
    return [w + factor * (a + b) for w, a, b in zip(v, x, y)]


def relative_error(found, expected) -> float:
    """‖found − expected‖ / ‖expected‖ of a row or a number (absolute where expected is 0)."""
    found = [mpf(value) for value in (found if isinstance(found, list) else [found])]
    expected = expected if isinstance(expected, list) else [expected]
    error = mpmath.sqrt(mpmath.fsum((a - b) ** 2 for a, b in zip(found, expected)))
    size = mpmath.sqrt(mpmath.fsum(b**2 for b in expected))
    return float(error / size) if size else float(error)
