// Two sums over the rows of every column of a table, and how threads are laid over such a table.
//
// A thread has four neighbouring columns, one access of 16 bytes; a block's threads stand in rows,
// one above the other, and go down the table together. Sums are taken over groups of rows, whose
// size depends on shapes alone, and the groups are added in order in double: the same bits on every
// run and every device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/device.h"
#include "cuda/held_row.h"
#include "cuda/stream.h"
#include "rows/noising.h"

namespace hdrm::cuda {

inline constexpr int kTableThreads = 128;          // in a block, at most
inline constexpr int kTableBlocks = 4;             // that a multiprocessor has registers for
inline constexpr int kAbreast = 32;                // threads of a block in a row, at most
inline constexpr int kSteps = 8;                   // rows that a thread adds up, at least
inline constexpr std::int64_t kMostGroups = 1024;  // of rows
inline constexpr int kColumns = 32;                // of groups, that a block adds up …
inline constexpr int kMergers = 8;                 // … with so many threads each

struct TableLayout {
  std::int64_t rows;
  int width;
  bool quads;  // all tables can be moved as quads
  unsigned abreast;
  std::int64_t per_group, groups;

  TableLayout(std::int64_t rows_, int width_, bool quads_)
      : rows(rows_), width(width_), quads(quads_) {
    // As few rows of threads as needed, all as long: 17 quads make one of 17, 65 make three of 22.
    const std::int64_t needed = hdrm::quads(width);
    const std::int64_t pieces = (needed + kAbreast - 1) / kAbreast;
    abreast = static_cast<unsigned>((needed + pieces - 1) / pieces);
    const std::int64_t above = block().y;
    const std::int64_t steps = (rows + above * kMostGroups - 1) / (above * kMostGroups);
    per_group = above * std::max<std::int64_t>(kSteps, steps);
    groups = (rows + per_group - 1) / per_group;
  }

  dim3 block() const { return {abreast, kTableThreads / abreast}; }
  unsigned stripes() const { return blocks_for(hdrm::quads(width), abreast); }
};

// Calls f(place) for the thread's places; all threads of a block come as often.
template <class F>
__device__ __forceinline__ void each_stripe(const TableLayout& layout, F f) {
  for (std::int64_t first = std::int64_t(blockIdx.y) * blockDim.x; first < quads(layout.width);
       first += std::int64_t(gridDim.y) * blockDim.x) {
    f(Place{static_cast<int>(kHeld * (first + threadIdx.x)), 1, layout.width, layout.quads});
  }
}

// found (groups, 2, width) ← two numbers of every column and group. The op has
//   start(place)                     the State of a thread, with its own two numbers `first` and
//                                    `second` of each of its columns
//   add(state, place, row, before)   after `before` rows of the group
//   merge(rows, at, first, second)   the group's numbers from at(0 or 1, y), those of thread y
template <class Op>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks)
    sum_groups(const TableLayout layout, const Op op, typename Op::T* found) {
  using T = typename Op::T;
  HDRM_SHARED_ARRAY(T, part, [2 * kHeld * kTableThreads]);
  const unsigned threads = blockDim.x * blockDim.y, self = threadIdx.y * blockDim.x + threadIdx.x;
  each_stripe(layout, [&](const Place& place) {
    for (std::int64_t group = blockIdx.x; group < layout.groups; group += gridDim.x) {
      const std::int64_t begin = group * layout.per_group;
      const std::int64_t end = min(begin + layout.per_group, layout.rows);
      auto state = op.start(place);
      std::int64_t before = 0;
      for (std::int64_t row = begin + threadIdx.y; row < end; row += blockDim.y) {
        op.add(state, place, row, before++);
      }
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        part[j * threads + self] = state.first[j];
        part[(kHeld + j) * threads + self] = state.second[j];
      }
      __syncthreads();
      // Now a thread merges a column: element j of thread x is c = kHeld·x + j of the stripe.
      const int stripe = place.first - kHeld * static_cast<int>(threadIdx.x);
      for (unsigned c = self; c < kHeld * blockDim.x; c += threads) {
        const int k = stripe + static_cast<int>(c);
        if (k >= layout.width) break;
        const auto at = [&](int which, unsigned y) {
          return part[(which * kHeld + c % kHeld) * threads + y * blockDim.x + c / kHeld];
        };
        T* to = found + group * 2 * layout.width + k;
        op.merge(end - begin, at, to[0], to[layout.width]);
      }
      __syncthreads();
    }
  });
}

template <class Op>
void launch_groups(const char* name, const Stream& stream, const TableLayout& layout,
                   const Op& op, typename Op::T* found) {
  if (layout.rows == 0) return;
  HDRM_LAUNCH_AS(name, sum_groups<Op>, dim3(blocks_for(layout.groups, 1), layout.stripes()),
                 layout.block(), 0, static_cast<cudaStream_t>(stream.handle), layout, op, found);
}

// Calls f(column, whether this thread is to write) for blocks of kColumns × kMergers threads, all
// as often: beyond the width with the last column.
template <class F>
__device__ __forceinline__ void each_column(const TableLayout& layout, F f) {
  for (std::int64_t first = std::int64_t(blockIdx.x) * kColumns; first < layout.width;
       first += std::int64_t(gridDim.x) * kColumns) {
    const std::int64_t k = first + threadIdx.x;
    const bool writes = threadIdx.y == 0 && k < layout.width;
    f(static_cast<int>(min(k, std::int64_t(layout.width - 1))), writes);
  }
}

// Σ over groups of f(group), for the thread's column: its mergers take the groups in turn.
template <class F>
__device__ __forceinline__ double sum_over_groups(const TableLayout& layout, F f) {
  HDRM_SHARED_ARRAY(double, part, [kMergers][kColumns]);
  double total = 0;
  for (std::int64_t group = threadIdx.y; group < layout.groups; group += kMergers) {
    total += f(group);
  }
  part[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  total = 0;
  for (int y = 0; y < kMergers; ++y) total += part[y][threadIdx.x];
  __syncthreads();  // before the next sum writes there
  return total;
}

}  // namespace hdrm::cuda
