#include "binding/row_ops.h"

namespace hdrm::binding {
namespace {

template <class Device>
void lorentz_maps(Library& m) {
  HDRM_ROWS(expmap0, 1);
  HDRM_GRADIENTS(expmap0_backward, 2, 1);
  HDRM_ROWS(logmap0, 1);
  HDRM_GRADIENTS(logmap0_backward, 2, 1);
  HDRM_ROWS(project, 1);
  HDRM_GRADIENTS(project_backward, 2, 1);
  HDRM_ROWS(project_tangent, 2);
  HDRM_GRADIENTS(project_tangent_backward, 3, 2);
  HDRM_ROWS(expmap, 2);
  HDRM_GRADIENTS(expmap_backward, 3, 2);
  HDRM_ROWS(logmap, 2);
  HDRM_GRADIENTS(logmap_backward, 3, 2);
  HDRM_ROWS(transport, 3);
  HDRM_GRADIENTS(transport_backward, 4, 3);
  HDRM_ROWS(egrad2rgrad, 2);
  HDRM_GRADIENTS(egrad2rgrad_backward, 3, 2);
}

HDRM_REGISTER(lorentz_maps)

}  // namespace
}  // namespace hdrm::binding
