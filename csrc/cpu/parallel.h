// How kernels get their threads: the binding hands them torch's parallel loop.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace hdrm::cpu {

// Elements that a thread should have to work on before it is worth waking it.
inline constexpr std::int64_t kGrain = 1 << 14;

// The same in rows.
inline std::int64_t grain_rows(std::int64_t width) {
  return std::max<std::int64_t>(1, kGrain / width);
}

struct Parallel {
  // Calls body(begin, end) on ranges that cover [0, size), at least `grain` long but for the last.
  std::function<void(std::int64_t size, std::int64_t grain,
                     const std::function<void(std::int64_t begin, std::int64_t end)>& body)>
      loop;
  int num_threads;
};

}  // namespace hdrm::cpu
