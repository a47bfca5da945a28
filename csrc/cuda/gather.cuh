// Sums of a table's rows by groups of lanes, for message_passing.cu.
#pragma once

#include <cstdint>

#include "cuda/held_row.h"

namespace hdrm::cuda {

inline constexpr int kUnderWay = 128;  // bytes that a lane asks for at a time

// A group of lanes as a team on a row that it holds, kQuads times four elements to a lane. With
// kVector they are moved as quads.
template <int kQuads, bool kVector>
struct Group {
  static constexpr int kElements = kQuads * kHeld;
  // One quad is for rows that a warp holds.
  static constexpr bool kHoldsAll = kVector && kQuads == 1;
  int lanes, lane, width;

  __device__ Group(int lanes_, int width_)
      : lanes(lanes_), lane(static_cast<int>(threadIdx.x) & (lanes_ - 1)), width(width_) {}

  // Columns that the group holds at a time.
  __device__ __forceinline__ int chunk() const { return lanes * kElements; }

  // Where the lane's quad q stands in the columns from `first` on, of which there are `end`.
  __device__ __forceinline__ Place place(int q, int first, int end) const {
    if (kVector) return {first + kHeld * (lane + lanes * q), 1, end, true};
    return {first + lane + lanes * kHeld * q, lanes, end, false};
  }

  template <class S, class T>
  __device__ __forceinline__ void load(const S* row, T* held, int first = 0) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) place(q, first, width).load(row, held + kHeld * q);
  }
  template <class S, class T>
  __device__ __forceinline__ void store(S* row, const T* held, int first = 0) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) place(q, first, width).store(row, held + kHeld * q);
  }

  template <class T, class F>
  __device__ __forceinline__ T sum(int, F f) const {
    T total = 0;
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const T value = f(j);
      total += place(j / kHeld, 0, width).spatial(j % kHeld) ? value : T(0);
    }
    for (int step = lanes / 2; step > 0; step /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, step);
    }
    return total;
  }
  template <class F>
  __device__ __forceinline__ void each(int, F f) const {
#pragma unroll
    for (int j = 0; j < kElements; ++j) f(j);
  }
  __device__ __forceinline__ bool leads() const { return lane == 0; }
};

// sum ← the group's columns, from `first` on, of Σ factor[col[e]]·table[col[e]] over `count` edges;
// factor null means 1. All groups of a warp take part, and go round as often as the longest.
template <class T, class G, int kQuads, bool kVector>
__device__ __forceinline__ void gather(const Group<kQuads, kVector>& group, const G* table,
                                       const T* factor, const std::int32_t* col, int count,
                                       int first, T* sum) {
  constexpr int kAhead = kUnderWay / (kQuads * kHeld * static_cast<int>(sizeof(T)));
#pragma unroll
  for (int j = 0; j < group.kElements; ++j) sum[j] = 0;
  int longest = count;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    longest = max(longest, __shfl_xor_sync(kAllLanes, longest, step));
  }
  for (int done = 0; done < longest; done += group.lanes) {
    const bool exists = done + group.lane < count;
    const int own = exists ? col[done + group.lane] : 0;
    const T own_factor = exists && factor ? factor[own] : T(1);
    const int end = min(group.lanes, longest - done);
    for (int k = 0; k < end; k += kAhead) {
      G rows[kAhead][group.kElements];  // as stored, which takes less registers
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const std::int64_t neighbour = __shfl_sync(kAllLanes, own, k + a, group.lanes);
        const G* row = table + neighbour * group.width;
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          group.place(q, first, done + k + a < count ? group.width : 0)
              .load(row, rows[a] + kHeld * q);
        }
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const T f = factor ? __shfl_sync(kAllLanes, own_factor, k + a, group.lanes) : T(1);
#pragma unroll
        for (int j = 0; j < group.kElements; ++j) sum[j] += f * static_cast<T>(rows[a][j]);
      }
    }
  }
}

}  // namespace hdrm::cuda
