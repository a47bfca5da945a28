// The diffusion's forward step and the statistics it needs; formulas in hdrm/ops/noising.py. Where
// they run is what the first argument says.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/noising.h"
#include "rows/storage.h"

namespace hdrm {

// Tables are (rows, width), contiguous, of float, double, Bfloat16 or Half.
template <class S>
struct Noising {
  using T = Arithmetic<S>;
  const S* z0;
  const T *mean, *std;  // (width,) each; null for isotropic noise
  Schedule schedule;
  const std::int64_t* seed;
  std::int64_t first_row;  // the number of z0's row 0, for its noise
  std::int64_t rows;
  int width;
};

// out ← z_t.
template <class S>
void add_noise(const cpu::Parallel&, const Noising<S>& in, S* out);
template <class S>
void add_noise(const cuda::Stream&, const Noising<S>& in, S* out);

// gz0, gmean, gstd ← gradients of directional noise from g, the gradient of z_t.
template <class S>
void directional_noise_backward(const cpu::Parallel&, const Noising<S>& in, const S* g, S* gz0,
                                Arithmetic<S>* gmean, Arithmetic<S>* gstd);
template <class S>
void directional_noise_backward(const cuda::Stream&, const Noising<S>& in, const S* g, S* gz0,
                                Arithmetic<S>* gmean, Arithmetic<S>* gstd);

// gz0 ← gradient of isotropic noise from g, the gradient of z_t.
template <class S>
void isotropic_noise_backward(const cpu::Parallel&, const Schedule& schedule, const S* g,
                              std::int64_t rows, int width, S* gz0);
template <class S>
void isotropic_noise_backward(const cuda::Stream&, const Schedule& schedule, const S* g,
                              std::int64_t rows, int width, S* gz0);

// mean, std (width,) ← mean and unbiased deviation of the columns; one read of z0, rows ≥ 1.
template <class S>
void column_statistics(const cpu::Parallel&, const S* z0, std::int64_t rows, int width,
                       Arithmetic<S>* mean, Arithmetic<S>* std);
template <class S>
void column_statistics(const cuda::Stream&, const S* z0, std::int64_t rows, int width,
                       Arithmetic<S>* mean, Arithmetic<S>* std);

template <class S>
void column_statistics_backward(const cpu::Parallel&, const Arithmetic<S>* gmean,
                                const Arithmetic<S>* gstd, const S* z0, std::int64_t rows,
                                int width, S* gz0);
template <class S>
void column_statistics_backward(const cuda::Stream&, const Arithmetic<S>* gmean,
                                const Arithmetic<S>* gstd, const S* z0, std::int64_t rows,
                                int width, S* gz0);

}  // namespace hdrm
