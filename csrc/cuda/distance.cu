#include "rows/distance.h"

#include "cuda/row_kernel.cuh"
#include "ops/row_ops.h"

namespace hdrm::cuda {

HDRM_DISTANCES(HDRM_ROW_KERNEL)

}  // namespace hdrm::cuda
