// Elements of the diffusion's forward step; formulas in hdrm/ops/noising.py.
#pragma once

#include <cmath>
#include <cstdint>

#include "rows/philox.h"

namespace hdrm {

// Element (row, k) takes component k mod 4 of the index row·quads(width) + ⌊k/4⌋.
HDRM_FN std::int64_t quads(int width) { return (width + 3) / 4; }

// sgn(z)·|ε|; what is neither positive nor negative passes, be it 0 or NaN.
template <class T>
HDRM_FN T directed(T z, T e) {
  const T size = std::abs(e);
  return z > 0 ? size : z < 0 ? -size : z;
}

template <class T>
HDRM_FN T directional(T z, T e, T mean, T std, T signal, T noise) {
  return signal * z + noise * (mean + std * directed(z, e));
}

template <class T>
HDRM_FN T isotropic(T z, T e, T signal, T noise) {
  return signal * z + noise * e;
}

}  // namespace hdrm
