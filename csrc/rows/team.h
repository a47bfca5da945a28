// Who works on a row. The arithmetic in csrc/rows is written once for a *team*: one thread on the
// host (cpu/team.h), a warp or a block on a device (cuda/team.h). A team visits the spatial coordinates
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
