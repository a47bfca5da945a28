#include "rows/distance.h"

#include "cuda/row_kernel.cuh"

namespace hdrm::cuda {

HDRM_ROW_KERNEL(distance, Distance<T, Metric::kDistance>)
HDRM_ROW_KERNEL(distance_backward, DistanceBackward<T, Metric::kDistance>)
HDRM_ROW_KERNEL(sqdist, Distance<T, Metric::kSquared>)
HDRM_ROW_KERNEL(sqdist_backward, DistanceBackward<T, Metric::kSquared>)
HDRM_ROW_KERNEL(sqdist0, Distance<T, Metric::kSquaredTangent>)
HDRM_ROW_KERNEL(sqdist0_backward, DistanceBackward<T, Metric::kSquaredTangent>)

}  // namespace hdrm::cuda
