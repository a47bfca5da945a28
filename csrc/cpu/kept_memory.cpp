#include "cpu/kept_memory.h"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hdrm::cpu {
namespace {

constexpr std::size_t kPage = 2 << 20;  // a huge page

// A sanitizer has to see what is freed.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kKeeps = false;
#else
constexpr bool kKeeps = true;
#endif

// Pages of 2 MiB: fewer page faults. It is advice: where the system has none
// (transparent_hugepage/enabled is "never"), nothing changes.
void* from_system(std::size_t bytes) {
  void* data = std::aligned_alloc(kPage, bytes);
  if (!data) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

class Kept {
 public:
  void* take(std::size_t bytes) {
    bytes = (bytes + kPage - 1) / kPage * kPage;
    const std::lock_guard lock(mutex_);
    auto best = free_.end();
    for (auto block = free_.begin(); block != free_.end(); ++block) {
      const bool fits = bytes <= block->bytes && block->bytes <= bytes + bytes / 4;
      if (fits && (best == free_.end() || block->bytes <= best->bytes)) best = block;
    }
    Block found{nullptr, bytes};
    if (best != free_.end()) {
      found = *best;
      free_.erase(best);
      free_bytes_ -= found.bytes;
      used_bytes_ += found.bytes;
    } else {
      // What does not fit must not add to what once was needed at the same time.
      used_bytes_ += bytes;
      most_used_ = std::max(most_used_, used_bytes_);
      shrink(std::min(most_, most_used_ - used_bytes_));
      found.data = from_system(bytes);
      if (!found.data) {  // what is kept may be what is missing
        shrink(0);
        found.data = from_system(bytes);
      }
      if (!found.data) {
        used_bytes_ -= bytes;
        throw std::bad_alloc();
      }
    }
    used_[found.data] = found.bytes;
    return found.data;
  }

  void give_back(void* data) {
    const std::lock_guard lock(mutex_);
    const auto used = used_.find(data);
    const Block block{data, used->second};
    used_.erase(used);
    used_bytes_ -= block.bytes;
    if (block.bytes > most_) {
      std::free(data);
      return;
    }
    shrink(most_ - block.bytes);
    free_.push_back(block);
    free_bytes_ += block.bytes;
  }

  std::size_t keep(std::size_t most) {
    const std::lock_guard lock(mutex_);
    most_ = kKeeps ? most : 0;
    const std::size_t freed = shrink(most_);
    most_used_ = used_bytes_ + free_bytes_;
    return freed;
  }

 private:
  struct Block {
    void* data;
    std::size_t bytes;
  };

  // Frees the longest unused blocks until no more than `most` bytes are kept; the bytes freed.
  std::size_t shrink(std::size_t most) {
    std::size_t freed = 0, count = 0;
    while (free_bytes_ - freed > most) {
      freed += free_[count].bytes;
      std::free(free_[count++].data);
    }
    free_.erase(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(count));
    free_bytes_ -= freed;
    return freed;
  }

  std::mutex mutex_;
  std::vector<Block> free_;  // a handful; the longest unused first
  std::unordered_map<void*, std::size_t> used_;
  std::size_t most_ = 0, free_bytes_ = 0, used_bytes_ = 0, most_used_ = 0;
};

// Never destroyed: tensors may be freed after static objects are.
Kept& kept() {
  static Kept& all = *new Kept;
  return all;
}

}  // namespace

void* take_memory(std::int64_t bytes) { return kept().take(static_cast<std::size_t>(bytes)); }
void give_back_memory(void* data) noexcept { kept().give_back(data); }
std::int64_t keep_memory(std::int64_t most) noexcept {
  return static_cast<std::int64_t>(kept().keep(static_cast<std::size_t>(most)));
}

}  // namespace hdrm::cpu
