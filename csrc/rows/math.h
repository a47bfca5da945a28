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

// e^t for 0 ≤ t ≤ 88 (float) or any t (double); relative error 1e-7 in float.
template <class T>
HDRM_FN T exponential(T t) {
  if constexpr (std::is_same_v<T, double>) {
    return std::exp(t);
  } else {
    const int n = static_cast<int>(t * 1.44269504f + 0.5f);
    const float k = static_cast<float>(n);
    const float s = (t - k * 0.693359375f) + k * 2.12194440e-4f;  // ln 2 in two parts
    float p = 1.0f / 5040;
    p = p * s + 1.0f / 720;
    p = p * s + 1.0f / 120;
    p = p * s + 1.0f / 24;
    p = p * s + 1.0f / 6;
    p = p * s + 0.5f;
    p = (p * s) * s + s;
    const float power = std::bit_cast<float>((n + 127) << 23);
    return power + power * p;
  }
}

// log(1 + p) for p ≥ 0.
template <class T>
HDRM_FN T log1_plus(T p) {
  if constexpr (std::is_same_v<T, double>) {
    return std::log1p(p);
  } else {
    const float u = 1.0f + p;
    const float lost = (p - (u - 1.0f)) / u;  // what the sum's rounding dropped
    // u = 2^k·m with m in [√½, √2): the exponent of u·√2, so that m − 1 is centred on 0.
    const std::int32_t bits = std::bit_cast<std::int32_t>(u);
    const std::int32_t k = (bits - 0x3f3504f3) >> 23;
    const float m = std::bit_cast<float>(bits - (k << 23));
    const float z = (m - 1.0f) / (m + 1.0f);  // log m = 2·atanh z, |z| ≤ 0.172
    const float z2 = z * z;
    const float tail = z2 * (2.0f / 3 + z2 * (2.0f / 5 + z2 * (2.0f / 7 + z2 * (2.0f / 9))));
    const float kf = static_cast<float>(k);
    // p = ∞ (an input beyond the range) stays ∞.
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
