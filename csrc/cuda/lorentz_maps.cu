#include "rows/lorentz_maps_backward.h"

#include "cuda/row_kernel.cuh"

namespace hdrm::cuda {

HDRM_ROW_KERNEL(expmap0, ExpMap0<T>)
HDRM_ROW_KERNEL(expmap0_backward, ExpMap0Backward<T>)
HDRM_ROW_KERNEL(logmap0, LogMap0<T>)
HDRM_ROW_KERNEL(logmap0_backward, LogMap0Backward<T>)
HDRM_ROW_KERNEL(project, Project<T>)
HDRM_ROW_KERNEL(project_backward, ProjectBackward<T>)
HDRM_ROW_KERNEL(project_tangent, ProjectTangent<T>)
HDRM_ROW_KERNEL(project_tangent_backward, ProjectTangentBackward<T>)
HDRM_ROW_KERNEL(expmap, ExpMap<T>)
HDRM_ROW_KERNEL(expmap_backward, ExpMapBackward<T>)
HDRM_ROW_KERNEL(logmap, LogMap<T>)
HDRM_ROW_KERNEL(logmap_backward, LogMapBackward<T>)
HDRM_ROW_KERNEL(transport, Transport<T>)
HDRM_ROW_KERNEL(transport_backward, TransportBackward<T>)
HDRM_ROW_KERNEL(egrad2rgrad, EgradToRgrad<T>)
HDRM_ROW_KERNEL(egrad2rgrad_backward, EgradToRgradBackward<T>)

}  // namespace hdrm::cuda
