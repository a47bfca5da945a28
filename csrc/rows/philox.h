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

// Four random words for an index.
HDRM_FN Draw philox(Words key, Words index) {
  constexpr std::uint32_t kRoundA = 0xD2511F53, kRoundB = 0xCD9E8D57;
  constexpr std::uint32_t kKeyA = 0x9E3779B9, kKeyB = 0xBB67AE85;
  Draw c{index.low, index.high, 0, 0};
  for (std::uint32_t round = 0; round < 10; ++round) {
    c = {high_product(kRoundB, c.x2) ^ c.x1 ^ (key.low + round * kKeyA), kRoundB * c.x2,
         high_product(kRoundA, c.x0) ^ c.x3 ^ (key.high + round * kKeyB), kRoundA * c.x0};
  }
  return c;
}

// float in [0, 1): the bits read as signed, negative ones complemented, over 2³¹.
HDRM_FN float uniform(std::uint32_t bits) {
  const auto x = static_cast<std::int32_t>(bits);
  return static_cast<float>(x ^ (x >> 31)) * 4.6566127342e-10f;
}

// sin and cos of an angle in [0, 2π]; absolute error 1e-7.
HDRM_FN void sine_cosine(float angle, float& sine, float& cosine) {
  const int quadrant = static_cast<int>(angle * 0.636619772f + 0.5f);
  const float k = static_cast<float>(quadrant);
  const float r = (angle - k * 1.57079601f) - k * 3.13916473e-7f;  // π/2 in two parts; |r| ≤ π/4
  const float q = r * r;
  const float s =
      r + r * q * (-1.0f / 6 + q * (1.0f / 120 + q * (-1.0f / 5040 + q * (1.0f / 362880))));
  const float c = 1 + q * (-0.5f + q * (1.0f / 24 + q * (-1.0f / 720 + q * (1.0f / 40320))));
  const bool odd = quadrant & 1;
  const auto signed_by = [](float value, int bit1) __attribute__((always_inline)) {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) ^
                                (static_cast<std::uint32_t>(bit1 & 2) << 30));
  };
  sine = signed_by(odd ? c : s, quadrant);
  cosine = signed_by(odd ? s : c, quadrant + 1);
}

// Two normal numbers from two uniform ones.
HDRM_FN void box_muller(float u1, float u2, float& n1, float& n2) {
  // −log u as log(1 + (1 − u)/u), whose argument is accurate at either end of the interval.
  const float u = largest(u1, 1e-7f);
  const float radius = std::sqrt(2 * log1_plus((1 - u) / u));
  float sine, cosine;
  sine_cosine(6.283185307179586f * u2, sine, cosine);
  n1 = radius * cosine;
  n2 = radius * sine;
}

// Four normal numbers for an index.
HDRM_FN void normals(Words key, Words index, float* out) {
  const Draw draw = philox(key, index);
  box_muller(uniform(draw.x0), uniform(draw.x1), out[0], out[1]);
  box_muller(uniform(draw.x2), uniform(draw.x3), out[2], out[3]);
}

// An integer in [0, bound) for 0 < bound < 2³¹: the upper half of a 64-bit draw times the bound.
HDRM_FN std::int64_t bounded(Words key, Words index, std::int64_t bound) {
  const Draw draw = philox(key, index);
  const auto b = static_cast<std::uint64_t>(bound);
  return static_cast<std::int64_t>((draw.x0 * b + ((draw.x1 * b) >> 32)) >> 32);
}

}  // namespace hdrm
