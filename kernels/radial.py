"""Scalar functions of the geometry, the same forms as csrc/rows/math.h.

Each takes a squared radius q where it can: no square root then loses what is near 0. Triton's own
float32 ``exp`` and ``log`` lose a digit far out, so exponentials and logarithms are polynomials here;
in float64 they are the device library's.
"""

import triton
import triton.language as tl


@triton.jit
def number(value, T: tl.constexpr):
    """A kernel's float argument as a number of the arithmetic."""
    return tl.full((), value, T)


@triton.jit
def ratio(a, b):
    """a/b, and 0 where b is 0."""
    return tl.where(b > 0, a / tl.where(b > 0, b, 1.0), 0.0)


@triton.jit
def root(q):
    if q.dtype == tl.float64:
        return tl.sqrt(q)
    else:
        return tl.sqrt_rn(q)


@triton.jit
def exponential(t):
    """e^t for 0 ≤ t ≤ 88 (float32) or any t (float64)."""
    if t.dtype == tl.float64:
        return tl.exp(t)
    else:
        n = (t * 1.44269504 + 0.5).to(tl.int32)
        k = n.to(tl.float32)
        s = tl.fma(k, 2.12194440e-4, tl.fma(k, -0.693359375, t))  # ln 2 in two parts
        p = 1 / 5040
        p = p * s + 1 / 720
        p = p * s + 1 / 120
        p = p * s + 1 / 24
        p = p * s + 1 / 6
        p = p * s + 0.5
        p = (p * s) * s + s
        power = ((n + 127) << 23).to(tl.float32, bitcast=True)
        return power + power * p


@triton.jit
def log1_plus(p):
    """log(1 + p) for p ≥ 0."""
    u = 1 + p
    lost = (p - (u - 1)) / u  # what the sum's rounding dropped
    if p.dtype == tl.float64:
        return tl.log(u) + tl.where(u < float("inf"), lost, 0.0)
    else:
        # u = 2^k·m with m in [√½, √2): the exponent of u·√2, so that m − 1 is centred on 0.
        bits = u.to(tl.int32, bitcast=True)
        k = (bits - 0x3F3504F3) >> 23
        m = (bits - (k << 23)).to(tl.float32, bitcast=True)
        z = (m - 1) / (m + 1)  # log m = 2·atanh z, |z| ≤ 0.172
        z2 = z * z
        tail = z2 * (2 / 3 + z2 * (2 / 5 + z2 * (2 / 7 + z2 * (2 / 9))))
        kf = k.to(tl.float32)
        value = kf * 0.693359375 + ((2 * z + z * tail) + (lost - kf * 2.12194440e-4))
        return tl.where(u > 3.0e38, u, value)  # an input beyond the range stays ∞


@triton.jit
def sinh_large(theta):
    """sinhθ for θ ≥ 0, relative accuracy where θ is not small."""
    e = exponential(theta)
    return (e - 1 / e) * 0.5


@triton.jit
def cosh_of(theta):
    e = exponential(theta)
    return (e + 1 / e) * 0.5


@triton.jit
def series_end(T: tl.constexpr):
    """Below this q the series of sinhc are used; their last terms vanish in T's precision there."""
    return 0.1 if T == tl.float64 else 1.0


@triton.jit
def sinhc(q, limit):
    """sinhθ/θ at θ = √q; beyond ``limit`` the numerator stays sinh(limit)."""
    small = q < series_end(q.dtype)
    series = 1 + q / 6 * (1 + q / 20 * (1 + q / 42 * (1 + q / 72 * (1 + q / 110 * (1 + q / 156)))))
    theta = tl.where(small, 1.0, root(q))
    return tl.where(small, series, sinh_large(tl.minimum(theta, limit)) / theta)


@triton.jit
def sinhc_slope(q, limit):
    """(θcoshθ − sinhθ)/θ³ at θ = √q ≤ limit: twice the derivative of sinhc with respect to q."""
    small = q < series_end(q.dtype)
    series = 1 / 3 + q * (
        1 / 30 + q * (1 / 840 + q * (1 / 45360 + q * (1 / 3991680 + q * (1 / 518918400))))
    )
    theta = tl.minimum(tl.where(small, 1.0, root(q)), limit)
    direct = (cosh_of(theta) - sinh_large(theta) / theta) / tl.where(small, 1.0, q)
    return tl.where(small, series, direct)


@triton.jit
def asinhc(q):
    """asinh(z)/z at z = √q."""
    small = q < 1e-3
    series = 1 - q * (1 / 6 - q * (3 / 40 - q * (5 / 112 - q * (35 / 1152 - q * (63 / 2816)))))
    z = tl.where(small, 1.0, root(q))
    direct = log1_plus(z + z * (z / (1 + root(1 + q)))) / z
    return tl.where(small, series, direct)


@triton.jit
def asinhc_slope(q, a):
    """(z/√(1+z²) − asinh z)/z³ at z = √q, from a = asinhc(q)."""
    small = q < 1e-3
    series = -1 / 3 + q * (3 / 10 - q * (15 / 56 - q * (35 / 144 - q * (315 / 1408))))
    return tl.where(small, series, (1 / root(1 + q) - a) / tl.where(small, 1.0, q))


@triton.jit
def asinhc_along(q, a):
    """q·asinhc_slope(q): what the slope adds along the row. For large q the slope underflows."""
    return tl.where(q < 1e-3, q * asinhc_slope(q, a), 1 / root(1 + q) - a)


@triton.jit
def arc(w):
    """φ(w) = asinh√w/(√w·√(1+w)): ∂d²/∂w = 4Kφ."""
    return asinhc(w) / root(1 + w)


@triton.jit
def arc_along(w, p):
    """w·dφ/dw, from p = φ(w)."""
    series = -2 / 3 + w * (16 / 15 - w * (48 / 35 - w * (512 / 315 - w * (1280 / 693))))
    direct = (1 / (1 + w) - p * ((1 + 2 * w) / (1 + w))) * 0.5
    return tl.where(w < 1e-3, w * series, direct)
