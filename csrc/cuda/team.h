// Teams of a device for the row arithmetic in csrc/rows: what Serial is on the host, a warp or a
// block here. Rows lie in memory; held_row.h has teams that hold them in registers.
//
// A sum has the same bits in every thread and on every run: the order of its terms is fixed.
#pragma once

#include "cuda/device.h"

namespace hdrm::cuda {

inline constexpr unsigned kAllLanes = 0xffffffff;

// Σ over groups of kLanes neighbours in a warp, a power of two; all 32 lanes must take part.
template <int kLanes = 32, class T>
__device__ __forceinline__ T lanes_sum(T value) {
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, step);
  }
  return value;
}

// Σ over a block whose size is a multiple of 32; all its threads must take part.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  HDRM_SHARED_ARRAY(T, part, [32]);
  value = lanes_sum(value);
  if ((threadIdx.x & 31) == 0) part[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += part[warp];
  __syncthreads();  // before the next sum writes there
  return total;
}

// What one thread of `size` adds to the sum of f over a row's spatial coordinates. Neighbours read
// neighbours; as in Serial::sum, f is evaluated at 0 and its value dropped.
template <class T, class F>
__device__ __forceinline__ T strided_sum(int thread, int size, int n, F f) {
  T total = 0;
  for (int i = thread; i < n; i += size) {
    const T value = f(i);
    total += i == 0 ? T(0) : value;
  }
  return total;
}

// The 32 lanes of a warp.
struct Warp {
  int lane;

  __device__ Warp() : lane(threadIdx.x & 31) {}

  template <class T, class F>
  __device__ __forceinline__ T sum(int n, F f) const {
    return lanes_sum(strided_sum<T>(lane, 32, n, f));
  }
  template <class F>
  __device__ __forceinline__ void each(int n, F f) const {
    for (int i = lane; i < n; i += 32) f(i);
  }
  __device__ __forceinline__ bool leads() const { return lane == 0; }
};

// The threads of a block, a multiple of 32 in one dimension.
struct Block {
  template <class T, class F>
  __device__ __forceinline__ T sum(int n, F f) const {
    return block_sum(strided_sum<T>(threadIdx.x, blockDim.x, n, f));
  }
  template <class F>
  __device__ __forceinline__ void each(int n, F f) const {
    for (int i = threadIdx.x; i < n; i += static_cast<int>(blockDim.x)) f(i);
  }
  __device__ __forceinline__ bool leads() const { return threadIdx.x == 0; }
};

}  // namespace hdrm::cuda
