// Optimiser steps on tables (rows, width), in place; formulas in hdrm/ops/riemannian_step.py. Where
// they run is what the first argument says.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/riemannian_step.h"

namespace hdrm {

// `moment` may be null.
template <class T>
void sgd_step(const cpu::Parallel&, const Space<T>&, const SgdOptions<T>&, T* x, const T* grad,
              T* moment, std::int64_t rows, int width);
template <class T>
void sgd_step(const cuda::Stream&, const Space<T>&, const SgdOptions<T>&, T* x, const T* grad,
              T* moment, std::int64_t rows, int width);

// `second` holds one number per row.
template <class T>
void adam_step(const cpu::Parallel&, const Space<T>&, const AdamOptions<T>&, T* x, const T* grad,
               T* moment, T* second, std::int64_t rows, int width);
template <class T>
void adam_step(const cuda::Stream&, const Space<T>&, const AdamOptions<T>&, T* x, const T* grad,
               T* moment, T* second, std::int64_t rows, int width);

}  // namespace hdrm
