// What a CUDA kernel source needs to be compiled by g++ and run on the CPU, thread by thread.
// csrc/cuda/device.h includes this where there is no nvcc; engine.h tells how the threads run.
//
// There is what the kernels use, and nothing that cannot be checked: no __activemask, no inline
// PTX, and shared memory only by the macros below, so that it starts as NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "engine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

using cudaStream_t = struct CUstream_st*;

// Vectors -----------------------------------------------------------------------------------------

// may_alias: kernels read rows of float as float4, which nvcc allows.
#define CUDA_ON_CPU_VECTOR2(type, name, size)            \
  struct alignas(size) [[gnu::may_alias]] name {           \
    type x, y;                                           \
  };                                                     \
  inline name make_##name(type x, type y) { return {x, y}; }
#define CUDA_ON_CPU_VECTOR4(type, name, size)            \
  struct alignas(size) [[gnu::may_alias]] name {           \
    type x, y, z, w;                                     \
  };                                                     \
  inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }

CUDA_ON_CPU_VECTOR2(int, int2, 8)
CUDA_ON_CPU_VECTOR2(unsigned, uint2, 8)
CUDA_ON_CPU_VECTOR2(float, float2, 8)
CUDA_ON_CPU_VECTOR2(double, double2, 16)
CUDA_ON_CPU_VECTOR4(int, int4, 16)
CUDA_ON_CPU_VECTOR4(unsigned, uint4, 16)
CUDA_ON_CPU_VECTOR4(float, float4, 16)

// Arithmetic --------------------------------------------------------------------------------------

#define CUDA_ON_CPU_MIN_MAX(type)                              \
  inline type min(type a, type b) { return b < a ? b : a; }    \
  inline type max(type a, type b) { return a < b ? b : a; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Memory ------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* p) {
  return *p;
}

template <class T>
void __stwb(T* p, T value) {
  *p = value;
}

// The block's dynamic shared memory: `name` points to it.
#define HDRM_SHARED(type, name) type* const name = static_cast<type*>(cuda_on_cpu::dynamic_shared())

// An array in shared memory, HDRM_SHARED_ARRAY(float, tile, [32][33]).
#define HDRM_SHARED_ARRAY(type, name, extents)                                  \
  using name##_array = type extents;                                            \
  static const char name##_declared = 0;                                        \
  name##_array& name = *static_cast<name##_array*>(                             \
      cuda_on_cpu::static_shared(&name##_declared, sizeof(name##_array)))

// Atomic operations on integers; those on floats would depend on the order of the threads.
template <class T>
  requires std::is_integral_v<T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

template <class T>
  requires std::is_integral_v<T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  T found = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (found < value && !__atomic_compare_exchange_n(address, &found, value, false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return found;
}

// Threads that meet -------------------------------------------------------------------------------

inline void __syncthreads(cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::barrier(at);
}

inline void __syncwarp(unsigned mask = ~0u,
                       cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  cuda_on_cpu::meet("__syncwarp", mask, 0, cuda_on_cpu::kBallot, at);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  return static_cast<unsigned>(
      cuda_on_cpu::meet("__ballot_sync", mask, predicate != 0, cuda_on_cpu::kBallot, at));
}

inline int __any_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::meet("__any_sync", mask, predicate != 0, cuda_on_cpu::kBallot, at) != 0;
}

inline int __all_sync(unsigned mask, int predicate,
                      cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  return cuda_on_cpu::meet("__all_sync", mask, predicate == 0, cuda_on_cpu::kBallot, at) == 0;
}

namespace cuda_on_cpu {

template <class T>
T shuffle(const char* operation, unsigned mask, T value, int source, Where at) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4, "CUDA shuffles numbers of 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet(operation, mask, bits, source, at);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The first lane of this one's segment of `width` lanes.
inline int segment(int lane, int width) { return lane & ~(width - 1); }

}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  const int first = cuda_on_cpu::segment(cuda_on_cpu::lane(), width);
  return cuda_on_cpu::shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), at);
}

// A lane beyond the segment leaves each thread its own value, as in CUDA.
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  const int lane = cuda_on_cpu::lane(), source = lane - static_cast<int>(delta);
  const bool inside = source >= cuda_on_cpu::segment(lane, width);
  return cuda_on_cpu::shuffle("__shfl_up_sync", mask, value, inside ? source : lane, at);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  const int lane = cuda_on_cpu::lane(), source = lane + static_cast<int>(delta);
  const bool inside = source < cuda_on_cpu::segment(lane, width) + width;
  return cuda_on_cpu::shuffle("__shfl_down_sync", mask, value, inside ? source : lane, at);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  cuda_on_cpu::Where at = cuda_on_cpu::Where::current()) {
  const int lane = cuda_on_cpu::lane(), source = lane ^ lane_mask;
  const bool inside = source < cuda_on_cpu::segment(lane, width) + width;
  return cuda_on_cpu::shuffle("__shfl_xor_sync", mask, value, inside ? source : lane, at);
}

// Launch ------------------------------------------------------------------------------------------

namespace cuda_on_cpu {

// Arguments are copied once, for all threads, and converted to the kernel's parameters.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t, A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };
  const Call call{kernel, std::tuple<P...>(std::forward<A>(arguments)...)};
  run(name, grid, block, shared_bytes,
      [](const void* context) {
        const auto& call = *static_cast<const Call*>(context);
        std::apply(call.kernel, call.arguments);
      },
      &call);
}

}  // namespace cuda_on_cpu

// csrc/cuda/device.h says what they take.
#define HDRM_LAUNCH_AS(name, kernel, grid, block, shared_bytes, stream, ...) \
  cuda_on_cpu::launch(name, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)
#define HDRM_LAUNCH(kernel, ...) HDRM_LAUNCH_AS(#kernel, kernel, __VA_ARGS__)
