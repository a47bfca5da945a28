// Who works on a row. The arithmetic in csrc/rows is written once for a *team*: one thread on the
// host (Serial, below), a warp or a block on a device. A team visits the spatial coordinates
// 1 … n-1 of a row of width n; coordinate 0 is the time and belongs to the leader.
#pragma once

#include <utility>

#if defined(__CUDACC__)
#define HDRM_FN __host__ __device__ __forceinline__
#else
#define HDRM_FN inline __attribute__((always_inline))
#endif

namespace hdrm {

// What one coordinate adds to N sums.
template <class T, int N>
struct Terms {
  T of[N];
};
template <class T, class... Rest>
HDRM_FN Terms<T, 1 + sizeof...(Rest)> terms(T first, Rest... rest) {
  return {{first, rest...}};
}

#if !defined(__CUDACC__)  // nvcc does not know GCC's shuffles of vectors
struct Serial {
  // Σ f(i) over the spatial coordinates. f is evaluated at 0 too, and its value there dropped, so
  // that loads stay aligned.
  template <class T, class F>
  HDRM_FN T sum(int n, F f) const {
    return sums<T, 1>(n, [&](int i) { return Terms<T, 1>{{f(i)}}; }).of[0];
  }

  // N such sums in one walk over the row; f(i) gives their terms.
  template <class T, int N, class F>
  HDRM_FN Terms<T, N> sums(int n, F f) const {
    constexpr int kLanes = 16, kPart = 64 / sizeof(T), kParts = kLanes / kPart;
    typedef T Part __attribute__((vector_size(64)));
    Part total[N][kParts] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      const auto add = [&]<int k>() __attribute__((always_inline)) {
        alignas(64) T term[kLanes];
#pragma omp simd
        for (int lane = 0; lane < kLanes; ++lane) term[lane] = f(i + lane).of[k];
        for (int part = 0; part < kParts; ++part) {
          Part lanes;
          __builtin_memcpy(&lanes, term + part * kPart, 64);
          if (part == 0 && i == 0) lanes[0] = 0;
          total[k][part] += lanes;
        }
      };
      [&]<int... k>(std::integer_sequence<int, k...>) __attribute__((always_inline)) {
        (add.template operator()<k>(), ...);
      }(std::make_integer_sequence<int, N>());
    }
    Terms<T, N> result;
    for (int k = 0; k < N; ++k) {
      Part v = total[k][0];
      for (int part = 1; part < kParts; ++part) v += total[k][part];
      using Order = decltype(v > v);
      if constexpr (kPart == 16) {
        v += __builtin_shuffle(v, Order{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
        v += __builtin_shuffle(v, Order{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
        v += __builtin_shuffle(v, Order{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
      } else {
        v += __builtin_shuffle(v, Order{4, 5, 6, 7, 0, 1, 2, 3});
        v += __builtin_shuffle(v, Order{2, 3, 0, 1, 6, 7, 4, 5});
      }
      result.of[k] = v[0] + v[1];
    }
    for (; i < n; ++i) {
      const Terms<T, N> found = f(i);
      for (int k = 0; k < N; ++k) result.of[k] += i == 0 ? T(0) : found.of[k];
    }
    return result;
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
#endif

// Several sums over a row's spatial coordinates, into `to`; f(i) gives their terms. A team on a
// device has the row in registers, or no use for fewer walks: it adds them one after another.
template <class T, class Team, class F, class... To>
HDRM_FN void sums(const Team& team, int n, F f, To&... to) {
  constexpr int kSums = sizeof...(To);
  if constexpr (requires { team.template sums<T, kSums>(n, f); }) {
    const Terms<T, kSums> found = team.template sums<T, kSums>(n, f);
    int k = 0;
    ((to = found.of[k++]), ...);
  } else {
    const auto one = [&]<int k>() {
      return team.template sum<T>(n, [&](int i) { return f(i).of[k]; });
    };
    [&]<int... k>(std::integer_sequence<int, k...>) {
      ((to = one.template operator()<k>()), ...);
    }(std::make_integer_sequence<int, kSums>());
  }
}

}  // namespace hdrm
