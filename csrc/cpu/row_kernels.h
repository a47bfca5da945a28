// The row kernels that csrc/cpu defines.
#pragma once

#include "cpu/row_kernel.h"

namespace hdrm::cpu {

extern const RowKernel expmap0, expmap0_backward, logmap0, logmap0_backward, project,
    project_backward, project_tangent, project_tangent_backward, expmap, expmap_backward, logmap,
    logmap_backward, transport, transport_backward, egrad2rgrad, egrad2rgrad_backward;
extern const RowKernel distance, distance_backward, sqdist, sqdist_backward, sqdist0,
    sqdist0_backward;
extern const RowKernel margin_ranking, margin_ranking_backward;

}  // namespace hdrm::cpu
