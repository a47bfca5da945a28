// Runs the threads of a grid. The kernel's side of it; see engine.cpp for how.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Those of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace cuda_on_cpu {

using Where = std::source_location;

// Runs thread(context) for every thread of the grid, block by block. HDRM_CUDA_ORDER chooses the
// order of blocks, warps and lanes: "forward" (if it is not set), "reverse", or "random SEED".
//
// Throws std::runtime_error naming kernel, block, thread and line for a launch or a kernel that
// CUDA gives no meaning.
void run(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
         void (*thread)(const void* context), const void* context);

// A warp operation: waits for all lanes of the mask that have not left the kernel. Returns the
// value that lane `source` brought, or with kBallot the mask of the lanes whose value is not 0.
inline constexpr int kBallot = -1;
std::uint64_t meet(const char* operation, unsigned mask, std::uint64_t value, int source, Where at);

// This thread's lane.
int lane();

// Waits for all threads of the block that have not left the kernel.
void barrier(Where at);

// The block's shared memory, full of NaN before its first use.
void* dynamic_shared();
void* static_shared(const void* declaration, std::size_t bytes);

}  // namespace cuda_on_cpu
