#include "binding/row_ops.h"

namespace hdrm::binding {
namespace {

template <class Device>
void distances(Library& m) {
  HDRM_NUMBERS(distance, 2);
  HDRM_NUMBER_GRADIENTS(distance_backward, 3, 2);
  HDRM_NUMBERS(sqdist, 2);
  HDRM_NUMBER_GRADIENTS(sqdist_backward, 3, 2);
  HDRM_NUMBERS(sqdist0, 2);
  HDRM_NUMBER_GRADIENTS(sqdist0_backward, 3, 2);
}

HDRM_REGISTER(distances)

}  // namespace
}  // namespace hdrm::binding
