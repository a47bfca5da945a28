#include "ops/riemannian_step.h"

#include "cpu/clones.h"
#include "cpu/team.h"

namespace hdrm {
namespace {

// Functions of their own for each type, since levels are not made of templates.
#define HDRM_STEPS(level, bytes, T)                                                               \
  level void sgd_rows(const Space<T>& space, const SgdOptions<T>& options, T* x, const T* grad,   \
                      T* moment, int width, std::int64_t begin, std::int64_t end) {               \
    for (std::int64_t row = begin * width; row < end * width; row += width) {                     \
      sgd_row(Host<bytes>(), space, options, x + row, grad + row, moment ? moment + row : nullptr, \
              width);                                                                             \
    }                                                                                             \
  }                                                                                               \
  level void adam_rows(const Space<T>& space, const AdamOptions<T>& options, T* x, const T* grad, \
                       T* moment, T* second, int width, std::int64_t begin, std::int64_t end) {   \
    for (std::int64_t i = begin; i < end; ++i) {                                                  \
      adam_row(Host<bytes>(), space, options, x + i * width, grad + i * width,                    \
               moment + i * width, second + i, width);                                            \
    }                                                                                             \
  }
HDRM_LEVELS(HDRM_STEPS, float)
HDRM_LEVELS(HDRM_STEPS, double)

}  // namespace

template <class T>
void sgd_step(const cpu::Parallel& parallel, const Space<T>& space, const SgdOptions<T>& options,
              T* x, const T* grad, T* moment, std::int64_t rows, int width) {
  parallel.loop(rows, cpu::grain_rows(width), [&](std::int64_t begin, std::int64_t end) {
    sgd_rows(space, options, x, grad, moment, width, begin, end);
  });
}

template <class T>
void adam_step(const cpu::Parallel& parallel, const Space<T>& space, const AdamOptions<T>& options,
               T* x, const T* grad, T* moment, T* second, std::int64_t rows, int width) {
  parallel.loop(rows, cpu::grain_rows(width), [&](std::int64_t begin, std::int64_t end) {
    adam_rows(space, options, x, grad, moment, second, width, begin, end);
  });
}

#define HDRM_DEFINE(T)                                                                           \
  template void sgd_step(const cpu::Parallel&, const Space<T>&, const SgdOptions<T>&, T*,        \
                         const T*, T*, std::int64_t, int);                                       \
  template void adam_step(const cpu::Parallel&, const Space<T>&, const AdamOptions<T>&, T*,      \
                          const T*, T*, T*, std::int64_t, int);
HDRM_DEFINE(float)
HDRM_DEFINE(double)

}  // namespace hdrm
