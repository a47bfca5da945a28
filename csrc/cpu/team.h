// The host's team for the row arithmetic in csrc/rows: one thread and its vectors, of kBytes bytes.
#pragma once

#include <cstring>
#include <utility>

#include "rows/team.h"

namespace hdrm {

// Vectors as GCC and clang both know them, not as any one instruction set has them.
template <class T, int kLanes>
struct Simd {
  typedef T Vector __attribute__((vector_size(kLanes * sizeof(T))));
};

// Σ of a vector's elements, as a tree. One after another, as a reduction clause of OpenMP adds them,
// they would take longer than a short row does.
template <class T, int kLanes>
HDRM_FN T tree_sum(typename Simd<T, kLanes>::Vector v) {
  if constexpr (kLanes == 2) {
    return v[0] + v[1];
  } else {
    typename Simd<T, kLanes / 2>::Vector half[2];
    std::memcpy(half, &v, sizeof v);
    return tree_sum<T, kLanes / 2>(half[0] + half[1]);
  }
}

template <int kBytes>
struct Host {
  // Σ f(i) over the spatial coordinates. f is evaluated at 0 too, and its value there dropped, so
  // that loads stay aligned.
  template <class T, class F>
  HDRM_FN T sum(int n, F f) const {
    return sums<T, 1>(n, [&](int i) { return Terms<T, 1>{{f(i)}}; }).of[0];
  }

  // N such sums in one walk over the row; f(i) gives their terms.
  template <class T, int N, class F>
  HDRM_FN Terms<T, N> sums(int n, F f) const {
    // Rows of float are read sixteen at a time where the arithmetic is double too.
    constexpr int kLanes = 16, kPart = kBytes / sizeof(T), kParts = kLanes / kPart;
    using Part = typename Simd<T, kPart>::Vector;
    Part total[N][kParts] = {};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      // A loop for each term: of one loop for all, GCC makes vectors of a lane's terms.
      const auto add = [&]<int k>() __attribute__((always_inline)) {
        alignas(64) T term[kLanes];
#pragma omp simd
        for (int lane = 0; lane < kLanes; ++lane) term[lane] = f(i + lane).of[k];
        for (int part = 0; part < kParts; ++part) {
          Part lanes;
          std::memcpy(&lanes, term + part * kPart, sizeof lanes);
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
      Part all = total[k][0];
      for (int part = 1; part < kParts; ++part) all += total[k][part];
      result.of[k] = tree_sum<T, kPart>(all);
    }
    for (; i < n; ++i) {
      const Terms<T, N> found = f(i);
      for (int k = 0; k < N; ++k) result.of[k] += i == 0 ? T(0) : found.of[k];
    }
    return result;
  }

  // The same as `sum` where f writes at i too.
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

using Serial = Host<16>;  // where nothing is summed that takes time

}  // namespace hdrm
