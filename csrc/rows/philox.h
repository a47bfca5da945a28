// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, SC 2011) and normal numbers by Box–Muller, by
// triton.language's convention: the key is the 64-bit seed, the counter (low, high, 0, 0) of a
// 64-bit index. hdrm/ops/philox.py states the same in torch; integers are equal bit for bit, floats
// to rounding. No branches, and 32-bit words only, so that a loop over indices vectorises.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "rows/math.h"

namespace hdrm {

// A seed or an index as the two words that the generator works on.
struct Words {
  std::uint32_t low, high;

  HDRM_FN Words(std::uint32_t low_, std::uint32_t high_) : low(low_), high(high_) {}
  HDRM_FN explicit Words(std::int64_t value)
      : low(static_cast<std::uint32_t>(value)),
        high(static_cast<std::uint32_t>(static_cast<std::uint64_t>(value) >> 32)) {}

  HDRM_FN Words operator+(std::uint32_t step) const {
    const std::uint32_t sum = low + step;
    return {sum, high + (sum < low)};
  }
};

struct Draw {
  std::uint32_t x0, x1, x2, x3;
};

HDRM_FN std::uint32_t high_product(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
}

inline constexpr std::uint32_t kPhiloxA = 0xD2511F53, kPhiloxB = 0xCD9E8D57;
inline constexpr std::uint32_t kPhiloxKeyA = 0x9E3779B9, kPhiloxKeyB = 0xBB67AE85;

// Four random words for an index.
HDRM_FN Draw philox(Words key, Words index) {
  Draw c{index.low, index.high, 0, 0};
  for (std::uint32_t round = 0; round < 10; ++round) {
    c = {high_product(kPhiloxB, c.x2) ^ c.x1 ^ (key.low + round * kPhiloxKeyA), kPhiloxB * c.x2,
         high_product(kPhiloxA, c.x0) ^ c.x3 ^ (key.high + round * kPhiloxKeyB), kPhiloxA * c.x0};
  }
  return c;
}

// float in [0, 1): the bits read as signed, negative ones complemented, over 2³¹.
HDRM_FN float uniform(std::uint32_t bits) {
  const auto x = static_cast<std::int32_t>(bits);
  return static_cast<float>(x ^ (x >> 31)) * 4.6566127342e-10f;
}

// √(−2·log u) for u in (0, 1]; relative error 1e-7.
HDRM_FN float normal_radius(float u) {
  // u = 2^k·m with m in [√½, √2), and −2·log m a minimax polynomial in m − 1, which is exact.
  const std::int32_t bits = std::bit_cast<std::int32_t>(u);
  const std::int32_t k = (bits - 0x3f3504f3) >> 23;
  const float f = std::bit_cast<float>(bits - (k << 23)) - 1;
  float p = -0.17444719f;
  p = p * f + 0.2873369f;
  p = p * f - 0.29904532f;
  p = p * f + 0.33124785f;
  p = p * f - 0.39913667f;
  p = p * f + 0.50004148f;
  p = p * f - 0.66668371f;
  p = p * f + 0.99999976f;
  p = p * f - 1.99999995f;
  return std::sqrt(p * f - 1.38629436f * static_cast<float>(k));
}

// Two normal numbers from two uniform ones.
HDRM_FN void box_muller(float u1, float u2, float& n1, float& n2) {
  float radius = normal_radius(largest(u1, 1e-7f));
  // The angle is 2π·u2, that is k half turns, k in {0, 1, 2}, and r of a turn, |r| ≤ ¼. k is the sum's
  // last bits; where it is odd, sine and cosine change their signs.
  constexpr float kRound = 0x1.8p23f;
  const float shifted = 2 * u2 + kRound;
  const float r = u2 - 0.5f * (shifted - kRound), q = r * r;
  radius = std::bit_cast<float>(std::bit_cast<std::uint32_t>(radius) ^
                                (std::bit_cast<std::uint32_t>(shifted) << 31));
  float s = 39.53886903f;
  s = s * q - 76.55010777f;
  s = s * q + 81.60102088f;
  s = s * q - 41.34165537f;
  s = s * q + 6.28318516f;
  float c = 56.24238047f;
  c = c * q - 85.24033032f;
  c = c * q + 64.93459063f;
  c = c * q - 19.73917143f;
  c = c * q + 0.99999995f;
  n1 = radius * c;
  n2 = radius * (r * s);
}

// Four normal numbers of a draw.
HDRM_FN void normals(Draw draw, float* out) {
  box_muller(uniform(draw.x0), uniform(draw.x1), out[0], out[1]);
  box_muller(uniform(draw.x2), uniform(draw.x3), out[2], out[3]);
}

// Four normal numbers for an index.
HDRM_FN void normals(Words key, Words index, float* out) { normals(philox(key, index), out); }

// An integer in [0, bound) for 0 < bound < 2³¹: the upper half of a 64-bit draw times the bound.
HDRM_FN std::int64_t bounded(Words key, Words index, std::int64_t bound) {
  const Draw draw = philox(key, index);
  const auto b = static_cast<std::uint64_t>(bound);
  return static_cast<std::int64_t>((draw.x0 * b + ((draw.x1 * b) >> 32)) >> 32);
}

}  // namespace hdrm
