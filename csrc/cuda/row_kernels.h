// The row kernels that csrc/cuda defines, as a binding sees them; no CUDA header is needed here.
#pragma once

#include <cstdint>

#include "rows/math.h"
#include "rows/tables.h"

namespace hdrm::cuda {

// Starts the op on all rows, in the stream (a cudaStream_t) and on its device, and does not wait.
//
// Throws std::runtime_error if the launch fails.
template <class T>
using RowLaunch = void (*)(const RowArguments&, const Space<T>&, std::int64_t rows, void* stream);

struct RowKernel {
  RowLaunch<float> f32;
  RowLaunch<double> f64;
  int num_in, num_out;
};

extern const RowKernel expmap0, expmap0_backward, logmap0, logmap0_backward, project,
    project_backward, project_tangent, project_tangent_backward, expmap, expmap_backward, logmap,
    logmap_backward, transport, transport_backward, egrad2rgrad, egrad2rgrad_backward;

}  // namespace hdrm::cuda
