// Huge pages for large results.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace hdrm::cpu {

// Memory that a process writes for the first time comes page by page, and 4 KiB at a time that takes
// longer than a row op does. This asks for pages of 2 MiB where a large result will be. It is
// advice: where the system has none (transparent_hugepage/enabled is "never"), nothing changes.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr std::int64_t kSmallest = 4 << 20;  // below, a huge page or two would be mostly unused
  if (bytes < kSmallest) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const auto first = begin / sysconf(_SC_PAGESIZE) * sysconf(_SC_PAGESIZE);
  madvise(reinterpret_cast<void*>(first), begin + bytes - first, MADV_HUGEPAGE);
#endif
}

}  // namespace hdrm::cpu
