// Who works on a row. The arithmetic in csrc/rows is written once for a *team*: one thread on the
// host (Serial, below), a warp or a block on a device. A team visits the spatial coordinates
// 1 … n-1 of a row of width n; coordinate 0 is the time and belongs to the leader.
#pragma once

#if defined(__CUDACC__)
#define HDRM_FN __host__ __device__ __forceinline__
#else
#define HDRM_FN inline __attribute__((always_inline))
#endif

namespace hdrm {

struct Serial {
  // Σ f(i) over the spatial coordinates. f is evaluated at 0 too, and its value there dropped, so
  // that loads stay aligned and rows whose width is a multiple of the vector need no remainder.
  template <class T, class F>
  HDRM_FN T sum(int n, F f) const {
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int i = 0; i < n; ++i) {
      const T value = f(i);
      total += i == 0 ? T(0) : value;
    }
    return total;
  }

  // The same where f writes at i too.
  template <class T, class F>
  HDRM_FN T each_sum(int n, F f) const {
    return sum<T>(n, f);
  }

  // f(i) for every coordinate, 0 included: the leader writes its time coordinate afterwards.
  template <class F>
  HDRM_FN void each(int n, F f) const {
#pragma omp simd
    for (int i = 0; i < n; ++i) f(i);
  }

  HDRM_FN bool leads() const { return true; }
};

}  // namespace hdrm
