// Elements of the diffusion's forward step; formulas in hdrm/ops/noising.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "rows/philox.h"

namespace hdrm {

// Element (row, k) takes component k mod 4 of the index (first_row + row)·quads(width) + ⌊k/4⌋.
HDRM_FN std::int64_t quads(int width) { return (width + 3) / 4; }

// sgn(z)·|ε|; what is neither positive nor negative passes, be it 0 or NaN.
template <class T>
HDRM_FN T directed(T z, T e) {
  const T size = std::abs(e);
  return z > 0 ? size : z < 0 ? -size : z;
}

// What the levels of rows are made of.
struct Schedule {
  const std::int64_t* t;    // (rows,), the step of each row
  const double* alpha_bar;  // (steps,)
  std::int64_t steps;
  double growth, root_c;
};

// a and b of a row.
template <class T>
struct Level {
  T signal, noise;
};

// ᾱ and 1 − ᾱ are taken in double, for ᾱ may be near 1, and the rest in T: every lane of a device does
// this for its row, and most devices have few units for double. Nothing is looked up for a step that
// the schedule does not have: its row becomes NaN, as a device's steps cannot be checked before without
// waiting for them.
template <class T>
HDRM_FN Level<T> level_of(const Schedule& schedule, std::int64_t row) {
  const std::int64_t t = schedule.t[row];
  const bool known = 0 <= t && t < schedule.steps;
  const double level = known ? schedule.alpha_bar[t] : std::numeric_limits<double>::quiet_NaN();
  T signal = std::sqrt(static_cast<T>(level));
  if (schedule.growth != 0) {
    const T time = static_cast<T>(schedule.root_c) * static_cast<T>(t);
    signal += static_cast<T>(schedule.growth) * std::tanh(time / static_cast<T>(schedule.steps));
  }
  return {signal, std::sqrt(static_cast<T>(1 - level))};
}

template <class T>
HDRM_FN T directional(T z, T e, T mean, T std, const Level<T>& level) {
  return level.signal * z + level.noise * (mean + std * directed(z, e));
}

template <class T>
HDRM_FN T isotropic(T z, T e, const Level<T>& level) {
  return level.signal * z + level.noise * e;
}

}  // namespace hdrm
