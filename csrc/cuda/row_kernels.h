// The row kernels that csrc/cuda defines, as a binding sees them; no CUDA header is needed here.
#pragma once

#include <cstdint>

#include "cuda/stream.h"
#include "ops/row_ops.h"
#include "rows/math.h"
#include "rows/tables.h"

namespace hdrm::cuda {

// Starts the op on all rows.
template <class T>
using RowLaunch = void (*)(const Stream&, const RowArguments&, const Space<T>&, std::int64_t rows);

struct RowKernel {
  RowLaunch<float> f32;
  RowLaunch<double> f64;
  int num_in, num_out;
};

HDRM_DECLARE_ROW_KERNELS

}  // namespace hdrm::cuda
