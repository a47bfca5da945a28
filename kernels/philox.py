"""Normal numbers from Triton's Philox, as in csrc/rows/philox.h; the stream is hdrm/ops/philox.py's."""

import triton
import triton.language as tl

from .radial import root


@triton.jit
def uniform(bits):
    """float32 in [0, 1): the bits read as signed, negative ones complemented, over 2³¹."""
    x = bits.to(tl.int32, bitcast=True)
    return (x ^ (x >> 31)).to(tl.float32) * 4.6566127342e-10


@triton.jit
def box_muller(bits1, bits2):
    """Two normal numbers. Triton's own have the hardware's sine, good to six digits."""
    # −2·log u: u = 2ᵏ·m with m in [√½, √2), and −2·log m a polynomial in f = m − 1, which is exact.
    bits = tl.maximum(uniform(bits1), 1e-7).to(tl.int32, bitcast=True)
    k = (bits - 0x3F3504F3) >> 23
    f = (bits - (k << 23)).to(tl.float32, bitcast=True) - 1
    p = -0.17444719 * f + 0.2873369
    p = p * f - 0.29904532
    p = p * f + 0.33124785
    p = p * f - 0.39913667
    p = p * f + 0.50004148
    p = p * f - 0.66668371
    p = p * f + 0.99999976
    p = p * f - 1.99999995
    radius = root(p * f - 1.38629436 * k.to(tl.float32))
    # The angle is k half turns and r of a turn, |r| ≤ ¼; k is the last bits of the sum with 1.5·2²³.
    turn = uniform(bits2)
    shifted = 2 * turn + 12582912.0
    r = turn - 0.5 * (shifted - 12582912.0)
    q = r * r
    s = 39.53886903 * q - 76.55010777
    s = s * q + 81.60102088
    s = s * q - 41.34165537
    s = r * (s * q + 6.28318516)
    c = 56.24238047 * q - 85.24033032
    c = c * q + 64.93459063
    c = c * q - 19.73917143
    c = c * q + 0.99999995
    radius = tl.where(shifted.to(tl.int32, bitcast=True) & 1 != 0, -radius, radius)
    return radius * c, radius * s


@triton.jit
def normals(key, numbers, first, width, COUNT: tl.constexpr, T: tl.constexpr):
    """ε of the rows of these int64 numbers in the columns first … first + COUNT − 1, first a multiple of
    4.
    """
    quads = first // 4 + tl.arange(0, COUNT // 4)
    index = numbers[:, None] * ((width + 3) // 4) + quads[None, :]
    bits1, bits2, bits3, bits4 = tl.randint4x(key, index)
    n1, n2 = box_muller(bits1, bits2)
    n3, n4 = box_muller(bits3, bits4)
    fours = tl.join(tl.join(n1, n3), tl.join(n2, n4))  # [..., a, b] is number 2a + b + 1
    return fours.reshape(numbers.shape[0], COUNT).to(T)
