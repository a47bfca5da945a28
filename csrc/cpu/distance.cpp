#include "rows/distance.h"

#include "cpu/row_kernel.h"
#include "ops/row_ops.h"

namespace hdrm::cpu {

HDRM_DISTANCES(HDRM_ROW_KERNEL)

}  // namespace hdrm::cpu
