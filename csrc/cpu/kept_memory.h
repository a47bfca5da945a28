// Memory of large results, kept when they are freed and given to the next ones.
//
// Memory that a process writes for the first time comes page by page from the system, which takes
// longer than a row op does; on a virtual machine whose host takes freed pages back it takes many
// times as long. An op in a training asks for the same sizes again and again.
#pragma once

#include <cstdint>

namespace hdrm::cpu {

inline constexpr std::int64_t kLargeBytes = 4 << 20;  // malloc reuses smaller blocks well enough

// Memory of at least so many bytes, aligned for any vector, with unspecified content. Throws
// std::bad_alloc.
void* take_memory(std::int64_t bytes);

// Ends the use of what take_memory returned. Any thread may call it.
void give_back_memory(void* data) noexcept;

// Freed memory beyond so many bytes goes back to the system, the longest unused first; at first all
// does. Used and unused together never exceed what was in use at one time. Returns the bytes that went
// back now.
std::int64_t keep_memory(std::int64_t most) noexcept;

// Owns what take_memory returned.
struct GiveBack {
  void operator()(void* data) const noexcept { give_back_memory(data); }
};

}  // namespace hdrm::cpu
