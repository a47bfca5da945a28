// The row kernels that csrc/cuda defines, as a binding sees them; no CUDA header is needed here.
#pragma once

#include <cstdint>

#include "cuda/stream.h"
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

extern const RowKernel expmap0, expmap0_backward, logmap0, logmap0_backward, project,
    project_backward, project_tangent, project_tangent_backward, expmap, expmap_backward, logmap,
    logmap_backward, transport, transport_backward, egrad2rgrad, egrad2rgrad_backward;
extern const RowKernel distance, distance_backward, sqdist, sqdist_backward, sqdist0,
    sqdist0_backward;
extern const RowKernel margin_ranking, margin_ranking_backward;

}  // namespace hdrm::cuda
