// The check of a CSR that an op gets.
#pragma once

#include <algorithm>
#include <atomic>

#include "binding/binding.h"

namespace hdrm::binding {

// One pass over the entries of a CSR on the host.
inline void check_entries(const Tensor& rowptr, const Tensor& col, std::int64_t num_rows,
                          std::int64_t offset, std::int64_t num_cols) {
  const auto* edge = read<std::int64_t>(rowptr);
  bool ascends = edge[0] >= 0 && edge[num_rows] <= col.numel();
  for (std::int64_t i = 0; i < num_rows; ++i) ascends &= edge[i] <= edge[i + 1];
  STD_TORCH_CHECK(ascends, "hdrm: rowptr must ascend from 0 or more to at most ", col.numel(),
                  ", the length of col");
  std::atomic<bool> inside = true;
  torch::stable::parallel_for(edge[0], edge[num_rows], cpu::kGrain,
                              [&](std::int64_t begin, std::int64_t end) {
    const auto* c = read<std::int32_t>(col);
    std::int32_t low = std::numeric_limits<std::int32_t>::max(), high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (std::int64_t e = begin; e < end; ++e) {
      low = std::min(low, c[e]);
      high = std::max(high, c[e]);
    }
    if (low < offset || high - offset >= num_cols) inside = false;
  });
  STD_TORCH_CHECK(inside, "hdrm: col must hold numbers from ", offset, " to ",
                  offset + num_cols - 1);
}

// Refuses index arrays that a kernel would follow out of memory.
template <class Device>
void check_csr(const Tensor& rowptr, const Tensor& col, std::int64_t num_rows, std::int64_t offset,
               std::int64_t num_cols) {
  STD_TORCH_CHECK(rowptr.scalar_type() == ScalarType::Long && col.scalar_type() == ScalarType::Int,
                  "hdrm: a CSR needs an int64 rowptr and an int32 col");
  STD_TORCH_CHECK(rowptr.numel() == num_rows + 1 && offset >= 0, "hdrm: rowptr must have ",
                  num_rows + 1, " entries, one more than rows, got ", rowptr.numel());
  if constexpr (Device::kHost) check_entries(rowptr, col, num_rows, offset, num_cols);
}

}  // namespace hdrm::binding
