// The diffusion's forward step and the statistics it needs; formulas in hdrm/ops/noising.py.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace hdrm::cpu {

// z0 is (rows, width), contiguous.
template <class T>
struct Noising {
  const T* z0;
  const T *mean, *std;      // (width,) each; null for isotropic noise
  const T *signal, *noise;  // (rows,) each: a and b
  std::int64_t seed, rows;
  int width;
};

// out ← z_t.
template <class T>
void add_noise(const Parallel& parallel, const Noising<T>& in, T* out);

// gz0, gmean, gstd ← gradients of directional noise from g, the gradient of z_t.
template <class T>
void directional_noise_backward(const Parallel& parallel, const Noising<T>& in, const T* g, T* gz0,
                                T* gmean, T* gstd);

// gz0 ← gradient of isotropic noise; of `in` only signal, rows and width are read.
template <class T>
void isotropic_noise_backward(const Parallel& parallel, const Noising<T>& in, const T* g, T* gz0);

// mean, std (width,) ← mean and unbiased deviation of the columns; one read of z0, rows ≥ 1.
template <class T>
void column_statistics(const Parallel& parallel, const T* z0, std::int64_t rows, int width, T* mean,
                       T* std);

template <class T>
void column_statistics_backward(const Parallel& parallel, const T* gmean, const T* gstd,
                                const T* z0, std::int64_t rows, int width, T* gz0);

}  // namespace hdrm::cpu
