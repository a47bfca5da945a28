// The check of a CSR that an op gets.
#pragma once

#include <atomic>

#include "binding/binding.h"
#include "cpu/graph.h"

namespace hdrm::binding {

// One pass over the entries of a CSR on the host.
inline void check_entries(const Tensor& rowptr, const Tensor& col, std::int64_t num_rows,
                          std::int64_t offset, std::int64_t num_cols) {
  const auto* edge = read<std::int64_t>(rowptr);
  STD_TORCH_CHECK(edge[0] >= 0 && edge[num_rows] <= col.numel() && cpu::ascends(edge, num_rows),
                  "hdrm: rowptr must ascend from 0 or more to at most ", col.numel(),
                  ", the length of col");
  std::atomic<bool> inside = true;
  torch::stable::parallel_for(edge[0], edge[num_rows], cpu::kGrain,
                              [&](std::int64_t begin, std::int64_t end) {
    const auto* c = read<std::int32_t>(col);
    if (!cpu::within(c + begin, end - begin, offset, num_cols)) inside = false;
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
