// A CUDA thread as the engine sees it, and how messages name one.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

#include "engine.h"
#include "fiber.h"

namespace cuda_on_cpu {

inline constexpr unsigned kWarp = 32, kMaxThreads = 1024;

enum class State { kRunnable, kInWarp, kInBlock, kLeft };

// What a thread borrows for its block. Under TSan the threads of a launch have one each, as far as
// they go round: what is used again would order a block's threads after those of the block before.
struct Slot {
  void* tsan_fiber = nullptr;
  char arrived, woken;  // addresses for happens-before
};

struct Thread {
  Fiber fiber;
  uint3 index;
  unsigned number;  // in the block
  State state;
  // What it waits in.
  const char* operation;
  unsigned mask;
  int source;
  std::uint64_t value, result;
  Where at;
  Slot* slot;
};

struct Warp {
  unsigned alive, runnable, waiting;  // lanes that have not left, can run, are in a warp operation
};

inline std::string text(uint3 i) {
  return "(" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) + ")";
}

inline std::string text(const Where& at) {
  const std::string file = at.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(at.line());
}

inline std::string hex(unsigned mask) {
  std::ostringstream out;
  out << "0x" << std::hex << mask;
  return out.str();
}

}  // namespace cuda_on_cpu
