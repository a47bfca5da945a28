// Scalar functions of the geometry, without branches in float so that a loop over rows vectorises.
// Each takes a squared radius q where it can: no square root then loses what is near 0.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cpu/clones.h"
#include "rows/team.h"

namespace hdrm {

template <class T>
HDRM_FN T largest(T a, T b) {
  return a > b ? a : b;
}

template <class T>
HDRM_FN T smallest(T a, T b) {
  return a < b ? a : b;
}

// a/b, and 0 where b is 0.
template <class T>
HDRM_FN T ratio(T a, T b) {
  return b > 0 ? a / b : T(0);
}

// a·b + c, rounded once in float. Where c cancels most of the product the digits that the product
// alone would lose are the result; elsewhere a compiler may contract or not. In kernels without
// clones, on a target without the instruction, std::fma would be a call that no loop vectorises:
// there the product goes through double, where it is exact. double itself has digits to spare for
// float tables, and where a table is double the compiler decides.
template <class T>
HDRM_FN T fused(T a, T b, T c) {
  if constexpr (std::is_same_v<T, double>) {
    return a * b + c;
  } else {
#if defined(__x86_64__) && !defined(__FMA__) && !defined(__CUDA_ARCH__) && !HDRM_HAS_CLONES
    return static_cast<float>(static_cast<double>(a) * b + c);
#else
    return std::fma(a, b, c);
#endif
  }
}

// e^t for 0 ≤ t ≤ 88 (float) or 700 (double); relative error 1e-7 or 3e-16. Not std::exp, which is a
// call, and no loop with a call vectorises.
template <class T>
HDRM_FN T exponential(T t) {
  if constexpr (std::is_same_v<T, double>) {
    const double shifted = t * 0x1.71547652b82fep+0 + 0x1.8p52;  // t/ln 2 rounded, in the last bits
    const double k = shifted - 0x1.8p52;
    const double s = (t - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;  // ln 2 in two parts
    double p = 1.0 / 6227020800;
    p = p * s + 1.0 / 479001600;
    p = p * s + 1.0 / 39916800;
    p = p * s + 1.0 / 3628800;
    p = p * s + 1.0 / 362880;
    p = p * s + 1.0 / 40320;
    p = p * s + 1.0 / 5040;
    p = p * s + 1.0 / 720;
    p = p * s + 1.0 / 120;
    p = p * s + 1.0 / 24;
    p = p * s + 1.0 / 6;
    p = p * s + 0.5;
    p = (p * s) * s + s;
    const auto bits = std::bit_cast<std::uint64_t>(shifted) << 52;
    const auto power = std::bit_cast<double>(bits + 0x3ff0000000000000);
    return power + power * p;
  } else {
    const float shifted = t * 1.44269504f + 0x1.8p23f;
    const float k = shifted - 0x1.8p23f;
    const float s = (t - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * s + 1.0f / 720;
    p = p * s + 1.0f / 120;
    p = p * s + 1.0f / 24;
    p = p * s + 1.0f / 6;
    p = p * s + 0.5f;
    p = (p * s) * s + s;
    const auto bits = std::bit_cast<std::uint32_t>(shifted) << 23;
    const auto power = std::bit_cast<float>(bits + 0x3f800000);
    return power + power * p;
  }
}

// log(1 + p) for p ≥ 0.
template <class T>
HDRM_FN T log1_plus(T p) {
  const T u = 1 + p;
  const T lost = (p - (u - 1)) / u;  // what the sum's rounding dropped
  // u = 2^k·m with m in [√½, √2): the exponent of u·√2, so that m − 1 is centred on 0. Then
  // log m = 2·atanh z, |z| ≤ 0.172.
  if constexpr (std::is_same_v<T, double>) {
    const auto bits = std::bit_cast<std::uint64_t>(u);
    const std::uint64_t k = (bits - 0x3fe6a09e667f3bcd) >> 52;
    const auto m = std::bit_cast<double>(bits - (k << 52));
    const double z = (m - 1) / (m + 1), z2 = z * z;
    double tail = 2.0 / 23;
    tail = tail * z2 + 2.0 / 21;
    tail = tail * z2 + 2.0 / 19;
    tail = tail * z2 + 2.0 / 17;
    tail = tail * z2 + 2.0 / 15;
    tail = tail * z2 + 2.0 / 13;
    tail = tail * z2 + 2.0 / 11;
    tail = tail * z2 + 2.0 / 9;
    tail = tail * z2 + 2.0 / 7;
    tail = tail * z2 + 2.0 / 5;
    tail = z2 * (tail * z2 + 2.0 / 3);
    // k as a double: a conversion of 64 bits is no instruction before AVX-512.
    const double kf = std::bit_cast<double>(k | 0x4330000000000000) - 0x1p52;
    const double value =
        kf * 0x1.62e42fee00000p-1 + ((2 * z + z * tail) + (lost + kf * 0x1.a39ef35793c76p-33));
    return u > 1.7e308 ? u : value;  // p = ∞ (an input beyond the range) stays ∞
  } else {
    const std::int32_t bits = std::bit_cast<std::int32_t>(u);
    const std::int32_t k = (bits - 0x3f3504f3) >> 23;
    const float m = std::bit_cast<float>(bits - (k << 23));
    const float z = (m - 1.0f) / (m + 1.0f);
    const float z2 = z * z;
    const float tail = z2 * (2.0f / 3 + z2 * (2.0f / 5 + z2 * (2.0f / 7 + z2 * (2.0f / 9))));
    const float kf = static_cast<float>(k);
    const float value = kf * 0.693359375f + ((2.0f * z + z * tail) + (lost - kf * 2.12194440e-4f));
    return u > 3.0e38f ? u : value;
  }
}

// sinh(θ) for θ ≥ 0, relative accuracy where θ is not small.
template <class T>
HDRM_FN T sinh_large(T theta) {
  const T e = exponential(theta);
  return (e - 1 / e) / 2;
}

template <class T>
HDRM_FN T cosh_of(T theta) {
  const T e = exponential(theta);
  return (e + 1 / e) / 2;
}

// Below this q the series are used; their last terms vanish in the type's precision there.
template <class T>
inline constexpr T kSeries = std::is_same_v<T, double> ? T(0.1) : T(1);

// sinh(θ)/θ at θ = √q; beyond `limit` the numerator stays sinh(limit).
template <class T>
HDRM_FN T sinhc(T q, T limit) {
  const T series =
      1 + q / 6 * (1 + q / 20 * (1 + q / 42 * (1 + q / 72 * (1 + q / 110 * (1 + q / 156)))));
  const T theta = std::sqrt(q);
  const T direct = sinh_large(smallest(theta, limit)) / theta;
  return q < kSeries<T> ? series : direct;
}

// (θ·coshθ − sinhθ)/θ³ at θ = √q ≤ limit: twice the derivative of sinhc with respect to q.
template <class T>
HDRM_FN T sinhc_slope(T q, T limit) {
  const T series =
      T(1) / 3 + q * (T(1) / 30 + q * (T(1) / 840 + q * (T(1) / 45360 + q * (T(1) / 3991680 +
      q * (T(1) / 518918400)))));
  const T theta = smallest(T(std::sqrt(q)), limit);
  const T direct = (cosh_of(theta) - sinh_large(theta) / theta) / q;
  return q < kSeries<T> ? series : direct;
}

// asinh(z)/z at z = √q.
template <class T>
HDRM_FN T asinhc(T q) {
  const T series = 1 - q * (T(1) / 6 - q * (T(3) / 40 - q * (T(5) / 112 - q * (T(35) / 1152 -
      q * T(63) / 2816))));
  const T z = std::sqrt(q);
  const T direct = log1_plus(z + z * (z / (1 + std::sqrt(1 + q)))) / z;
  return q < T(1e-3) ? series : direct;
}

// (z/√(1+z²) − asinh z)/z³ at z = √q, from a = asinhc(q).
template <class T>
HDRM_FN T asinhc_slope(T q, T a) {
  const T series = -T(1) / 3 + q * (T(3) / 10 - q * (T(15) / 56 - q * (T(35) / 144 -
      q * T(315) / 1408)));
  const T direct = (1 / std::sqrt(1 + q) - a) / q;
  return q < T(1e-3) ? series : direct;
}

// q·asinhc_slope(q): what the slope adds along the row. For large q the slope itself underflows.
template <class T>
HDRM_FN T asinhc_along(T q, T a) {
  return q < T(1e-3) ? q * asinhc_slope(q, a) : 1 / std::sqrt(1 + q) - a;
}

// φ(w) = asinh√w/(√w·√(1+w)): ∂d²/∂w = 4Kφ.
template <class T>
HDRM_FN T arc(T w) {
  return asinhc(w) / std::sqrt(1 + w);
}

// w·dφ/dw, from p = φ(w).
template <class T>
HDRM_FN T arc_along(T w, T p) {
  const T series =
      -T(2) / 3 + w * (T(16) / 15 - w * (T(48) / 35 - w * (T(512) / 315 - w * T(1280) / 693)));
  const T direct = (1 / (1 + w) - p * ((1 + 2 * w) / (1 + w))) / 2;
  return w < T(1e-3) ? w * series : direct;
}

// Largest radius over r in a table of T, less ½·ln K where K > 1: |xs|² is finite, with products.
template <class T>
inline constexpr double kLargestRadius = std::is_same_v<T, double> ? 350 : 43;

// The constants of a space of curvature −c, for arithmetic in T on tables whose range ends at the
// given radius.
template <class T>
struct Space {
  double curvature;  // c before rounding
  T c, K, r, root_c;
  T limit;          // largest radius over r that is represented
  T inverse_reach;  // r/|xs| there
  T margin;         // of the ranking loss; the only op parameter beside the curvature

  Space(double curvature_, double margin_, double largest_radius = kLargestRadius<T>)
      : curvature(curvature_),
        c(T(curvature)),
        K(T(1 / curvature)),
        r(T(1 / std::sqrt(curvature))),
        root_c(T(std::sqrt(curvature))),
        limit(T(largest_radius - largest(0.0, -0.5 * std::log(curvature)))),
        inverse_reach(T(1 / std::sinh(double(limit)))),
        margin(T(margin_)) {}

  // The same space for arithmetic in A on the same tables.
  template <class A>
  Space<A> as() const {
    return {curvature, margin, kLargestRadius<T>};
  }
};

}  // namespace hdrm
