// 16-bit storage of tangent vectors: bfloat16 and IEEE half as bits, widened to float for
// arithmetic and rounded back to the nearest, ties to even. No branches, so that loops vectorise.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "rows/team.h"

namespace hdrm {

enum class Storage : std::uint8_t { kNative, kBfloat16, kHalf };

HDRM_FN float widen_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

HDRM_FN std::uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0);
}

HDRM_FN float widen_half(std::uint16_t bits) {
  // Exponent and mantissa moved into a float's place are too small by 2^112, subnormals included.
  const std::uint32_t magnitude = static_cast<std::uint32_t>(bits & 0x7fff) << 13;
  const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude | 0x7f800000;  // infinity and NaN
  const std::uint32_t size =
      (bits & 0x7c00) == 0x7c00 ? special : std::bit_cast<std::uint32_t>(finite);
  return std::bit_cast<float>(size | static_cast<std::uint32_t>(bits & 0x8000) << 16);
}

HDRM_FN std::uint16_t to_half(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffff;
  // Below 2^-14 the sum with ½ rounds to a half's subnormals; above, the exponent is rebiased.
  const std::uint32_t small =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(size) + 0.5f) - 0x3f000000;
  const std::uint32_t normal = (size - 0x37fff001 + ((size >> 13) & 1)) >> 13;
  const std::uint32_t large = size > 0x7f800000 ? 0x7e00 : 0x7c00;
  const std::uint32_t found = size < 0x38800000 ? small : size < 0x47800000 ? normal : large;
  return static_cast<std::uint16_t>(found | (bits & 0x80000000) >> 16);
}

// An element of a 16-bit table where a template takes the table's type: reads as a float, and a
// float assigned to it is rounded, so that one expression serves every storage.
struct Bfloat16 {
  std::uint16_t bits;
  HDRM_FN operator float() const { return widen_bfloat16(bits); }
  HDRM_FN Bfloat16& operator=(float value) {
    bits = to_bfloat16(value);
    return *this;
  }
};

struct Half {
  std::uint16_t bits;
  HDRM_FN operator float() const { return widen_half(bits); }
  HDRM_FN Half& operator=(float value) {
    bits = to_half(value);
    return *this;
  }
};

// What elements of type S are computed in.
template <class S>
using Arithmetic = std::conditional_t<sizeof(S) == 2, float, S>;

}  // namespace hdrm
