#pragma once

#include <cstdint>

#include "rows/riemannian_step.h"

namespace hdrm::cpu {

// Rows begin … end-1 of tables of the given width; `moment` may be null.
void sgd_rows(const Space<float>&, const SgdOptions<float>&, float* x, const float* grad,
              float* moment, int width, std::int64_t begin, std::int64_t end);
void sgd_rows(const Space<double>&, const SgdOptions<double>&, double* x, const double* grad,
              double* moment, int width, std::int64_t begin, std::int64_t end);

// `second` holds one number per row.
void adam_rows(const Space<float>&, const AdamOptions<float>&, float* x, const float* grad,
               float* moment, float* second, int width, std::int64_t begin, std::int64_t end);
void adam_rows(const Space<double>&, const AdamOptions<double>&, double* x, const double* grad,
               double* moment, double* second, int width, std::int64_t begin, std::int64_t end);

}  // namespace hdrm::cpu
