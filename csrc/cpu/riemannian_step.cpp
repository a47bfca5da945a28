#include "cpu/riemannian_step.h"

#include "cpu/clones.h"

namespace hdrm::cpu {

#define HDRM_STEPS(T)                                                                            \
  HDRM_CLONES void sgd_rows(const Space<T>& space, const SgdOptions<T>& options, T* x,           \
                            const T* grad, T* moment, int width, std::int64_t begin,             \
                            std::int64_t end) {                                                  \
    for (std::int64_t row = begin * width; row < end * width; row += width) {                    \
      sgd_row(Serial(), space, options, x + row, grad + row, moment ? moment + row : nullptr,    \
              width);                                                                            \
    }                                                                                            \
  }                                                                                              \
  HDRM_CLONES void adam_rows(const Space<T>& space, const AdamOptions<T>& options, T* x,         \
                             const T* grad, T* moment, T* second, int width,                     \
                             std::int64_t begin, std::int64_t end) {                             \
    for (std::int64_t i = begin; i < end; ++i) {                                                 \
      adam_row(Serial(), space, options, x + i * width, grad + i * width, moment + i * width,    \
               second + i, width);                                                               \
    }                                                                                            \
  }
HDRM_STEPS(float)
HDRM_STEPS(double)

}  // namespace hdrm::cpu
