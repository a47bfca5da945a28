// The only header that a kernel source needs for CUDA itself. nvcc brings everything else; without
// nvcc the same sources are compiled for the emulator of tests/cuda_on_cpu, which runs them on the
// CPU. They keep to what both offer: launches by HDRM_LAUNCH, shared memory by HDRM_SHARED and
// HDRM_SHARED_ARRAY, the lane as threadIdx.x & 31, no __activemask, no inline PTX.
#pragma once

#if defined(__CUDACC__)

#include <stdexcept>
#include <string>

namespace hdrm::cuda {

// After every launch: what was wrong with it, or with a kernel that ran before.
inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  throw std::runtime_error("hdrm: launching CUDA kernel " + std::string(kernel) +
                           " failed: " + cudaGetErrorString(error));
}

}  // namespace hdrm::cuda

// HDRM_LAUNCH(kernel, grid, block, bytes of dynamic shared memory, stream, arguments …); a kernel
// with commas in its name stands in parentheses. Throws std::runtime_error. HDRM_LAUNCH_AS takes
// the name for messages apart, as a template does better with that of the op.
#define HDRM_LAUNCH_AS(name, kernel, grid, block, shared_bytes, stream, ...) \
  do {                                                                       \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__);              \
    ::hdrm::cuda::check_launch(name);                                        \
  } while (false)
#define HDRM_LAUNCH(kernel, ...) HDRM_LAUNCH_AS(#kernel, kernel, __VA_ARGS__)

// The block's dynamic shared memory: `name` points to its first byte, whatever the type.
#define HDRM_SHARED(type, name)                                      \
  extern __shared__ __align__(16) unsigned char hdrm_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(hdrm_shared_bytes)

// An array in shared memory: HDRM_SHARED_ARRAY(float, tile, [32][33]).
#define HDRM_SHARED_ARRAY(type, name, extents) __shared__ type name extents

#else

#include "cuda_on_cpu.h"

#endif

#include <algorithm>
#include <cstdint>

#ifndef HDRM_MAX_BLOCKS  // tests set it low
#define HDRM_MAX_BLOCKS (1 << 15)
#endif

namespace hdrm::cuda {

inline constexpr int kMaxBlocks = HDRM_MAX_BLOCKS;  // work beyond comes round by the grid's stride

// The blocks of a grid for `count` pieces of work of which a block takes `at_once`.
inline unsigned blocks_for(std::int64_t count, int at_once) {
  return static_cast<unsigned>(
      std::min<std::int64_t>(kMaxBlocks, (count + at_once - 1) / at_once));
}

}  // namespace hdrm::cuda
