// How kernels get their threads: the binding hands them torch's parallel loop.
#pragma once

#include <cstdint>
#include <functional>

namespace hdrm::cpu {

struct Parallel {
  // Calls body(begin, end) on ranges that cover [0, size), at least `grain` long but for the last.
  std::function<void(std::int64_t size, std::int64_t grain,
                     const std::function<void(std::int64_t begin, std::int64_t end)>& body)>
      loop;
  int num_threads;
};

}  // namespace hdrm::cpu
