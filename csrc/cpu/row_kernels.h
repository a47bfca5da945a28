// The row kernels that csrc/cpu defines.
#pragma once

#include "cpu/row_kernel.h"
#include "ops/row_ops.h"

namespace hdrm::cpu {

HDRM_DECLARE_ROW_KERNELS

}  // namespace hdrm::cpu
