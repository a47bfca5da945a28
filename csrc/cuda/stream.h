// Where an op of csrc/cuda runs, as cpu/parallel.h is for csrc/cpu. No CUDA header is needed here.
#pragma once

#include <cstdint>
#include <functional>

namespace hdrm::cuda {

// Ops start their kernels in the stream and do not wait for it. They throw std::runtime_error when
// a launch fails.
struct Stream {
  void* handle;  // a cudaStream_t of the current device
  // Memory of that device for what the op starts, 16-byte aligned and not initialised. The binding
  // takes it from torch's allocator, which hands it on in the order of the stream, so an op's sizes
  // depend on shapes alone and a CUDA graph may capture it.
  std::function<void*(std::int64_t bytes)> scratch;
};

template <class T>
T* scratch(const Stream& stream, std::int64_t count) {
  return static_cast<T*>(stream.scratch(count * static_cast<std::int64_t>(sizeof(T))));
}

}  // namespace hdrm::cuda
