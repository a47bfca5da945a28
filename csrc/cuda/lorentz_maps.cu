#include "rows/lorentz_maps_backward.h"

#include "cuda/row_kernel.cuh"
#include "ops/row_ops.h"

namespace hdrm::cuda {

HDRM_LORENTZ_MAPS(HDRM_ROW_KERNEL)

}  // namespace hdrm::cuda
