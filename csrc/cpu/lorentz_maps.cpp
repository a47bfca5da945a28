#include "rows/lorentz_maps_backward.h"

#include "cpu/row_kernel.h"
#include "ops/row_ops.h"

namespace hdrm::cpu {

HDRM_LORENTZ_MAPS(HDRM_ROW_KERNEL)

}  // namespace hdrm::cpu
