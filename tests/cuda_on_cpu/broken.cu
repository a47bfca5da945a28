// Kernels that are wrong, each in one way: `broken NAME` runs one of them, and prints what was
// thrown. The lines marked HERE are those that a message must name.
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda/device.h"

namespace {

constexpr unsigned kAll = 0xffffffff;

__global__ void own_bit_missing(float* out) {
  out[threadIdx.x] = __shfl_sync(0x0000ffff, 1.0f, 0);  // HERE own_bit_missing
}

__global__ void lane_outside_mask(float* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_sync(0x0000ffff, 1.0f, 20);  // HERE lane_outside_mask
}

__global__ void lane_has_left(float* out) {
  if (threadIdx.x == 3) return;
  out[threadIdx.x] = __shfl_sync(kAll, 1.0f, 3);  // HERE lane_has_left
}

__global__ void mixed_intrinsics(float* out) {
  if (threadIdx.x & 1) {
    out[threadIdx.x] = __any_sync(kAll, 1);  // HERE mixed_intrinsics
  } else {
    out[threadIdx.x] = __all_sync(kAll, 1);
  }
}

__global__ void different_masks(float* out) {
  const unsigned mask = threadIdx.x < 8 ? kAll : 0xffffff01;
  out[threadIdx.x] = __shfl_sync(mask, 1.0f, 0);  // HERE different_masks
}

__global__ void different_barriers(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();  // HERE different_barriers
  }
  out[threadIdx.x] = 0;
}

// The first warp waits for the second, where lane 1 waits for lane 2, which waits for lane 3.
__global__ void deadlock(float* out) {
  if (threadIdx.x < 32) __syncthreads();  // HERE deadlock
  if (threadIdx.x == 33) out[33] = __shfl_sync(0x00000006, 1.0f, 1);
  if (threadIdx.x == 34) out[34] = __shfl_sync(0x0000000c, 1.0f, 2);
  if (threadIdx.x == 35) out[35] = __shfl_sync(0x0000000a, 1.0f, 1);
}

__global__ void beyond_dynamic_shared(float* out) {
  HDRM_SHARED(float, part);
  part[threadIdx.x + 1] = 1;  // HERE beyond_dynamic_shared
  out[threadIdx.x] = 1;
}

__global__ void beyond_static_shared(float* out) {
  HDRM_SHARED_ARRAY(float, part, [64]);
  float* p = part;
  p[threadIdx.x + 1] = 1;  // HERE beyond_static_shared
  out[threadIdx.x] = 1;
}

__global__ void beyond_global(float* out) {
  out[threadIdx.x + 1] = 1;  // HERE beyond_global
}

__global__ void misaligned(float* out) {
  reinterpret_cast<float4*>(out + 1)[0] = make_float4(1, 2, 3, 4);  // HERE misaligned
}

__global__ void uninitialised(float* out) {
  HDRM_SHARED(float, part);
  HDRM_SHARED_ARRAY(float, other, [64]);
  out[threadIdx.x] = threadIdx.x & 1 ? part[threadIdx.x] : other[threadIdx.x];
  part[threadIdx.x] = other[threadIdx.x] = 1;  // the next block must not see it
}

__global__ void missing_syncthreads(float* out) {
  HDRM_SHARED(float, part);
  part[threadIdx.x] = threadIdx.x;  // HERE missing_syncthreads
  out[threadIdx.x] = part[(threadIdx.x + 32) % 64];
}

__global__ void missing_syncwarp(float* out) {
  HDRM_SHARED(float, part);
  part[threadIdx.x] = threadIdx.x;  // HERE missing_syncwarp
  out[threadIdx.x] = part[threadIdx.x ^ 1];
}

// A barrier too few at the loop's end: the next round overwrites what others still read.
__global__ void missing_second_barrier(float* out) {
  HDRM_SHARED(float, part);
  float total = 0;
  for (int round = 0; round < 4; ++round) {
    part[threadIdx.x] = round;  // HERE missing_second_barrier
    __syncthreads();
    total += part[(threadIdx.x + 32) % 64];
  }
  out[threadIdx.x] = total;
}

// A warp operation orders the lanes of its mask only.
__global__ void missing_lanes_in_mask(float* out) {
  HDRM_SHARED(float, part);
  part[threadIdx.x] = threadIdx.x;  // HERE missing_lanes_in_mask
  __syncwarp(threadIdx.x & 16 ? 0xffff0000 : 0x0000ffff);
  out[threadIdx.x] = part[threadIdx.x ^ 16];
}

// Leaving the kernel is no barrier for memory.
__global__ void written_before_leaving(float* out) {
  HDRM_SHARED(float, part);
  if (threadIdx.x == 63) {
    part[0] = 1;  // HERE written_before_leaving
    return;
  }
  __syncthreads();
  if (threadIdx.x == 5) out[5] = part[0];
}

__global__ void blocks_share_a_row(float* out) {
  out[0] = blockIdx.x;  // HERE blocks_share_a_row
}

__global__ void right(float* out) { out[threadIdx.x] = threadIdx.x; }

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  std::vector<float> out(64);
  const auto launch = [&](void (*kernel)(float*), int blocks = 1, int threads = 64) {
    HDRM_LAUNCH_AS(name.c_str(), kernel, blocks, threads, 64 * sizeof(float), nullptr, out.data());
  };
  const std::map<std::string, std::function<void()>> cases{
#define CASE(kernel, ...) {#kernel, [&] { launch(kernel __VA_OPT__(, ) __VA_ARGS__); }}
      CASE(own_bit_missing, 1, 32),
      CASE(lane_outside_mask, 1, 32),
      CASE(lane_has_left, 1, 32),
      CASE(mixed_intrinsics, 1, 32),
      CASE(different_masks, 1, 32),
      CASE(different_barriers),
      CASE(deadlock),
      CASE(beyond_dynamic_shared),
      CASE(beyond_static_shared),
      CASE(beyond_global),
      CASE(misaligned, 1, 1),
      CASE(uninitialised, 2),
      CASE(missing_syncthreads),
      CASE(missing_syncwarp, 1, 32),
      CASE(missing_second_barrier),
      CASE(missing_lanes_in_mask, 1, 32),
      CASE(written_before_leaving),
      CASE(blocks_share_a_row, 2, 1),
      {"too_many_threads", [&] { launch(right, 1, 1025); }},
      {"no_blocks", [&] { launch(right, 0); }},
  };
  try {
    cases.at(name)();
  } catch (const std::exception& error) {
    std::puts(error.what());
    launch(right);  // a refused launch leaves nothing behind
    std::puts(out[63] == 63 ? "and goes on" : "BROKEN");
    return 3;
  }
  for (const float value : out) std::printf("%g ", value);
  std::puts("");
}
