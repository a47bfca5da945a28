#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "rows/math.h"

namespace hdrm::cpu {

template <class T>
struct TopK {
  const T* users;        // points (num_users, width)
  const T* items;        // points (num_items, width)
  std::int64_t num_items;
  int width;
  const std::int64_t* rowptr;  // items that a user must not get; null for none
  const std::int32_t* col;
  std::int64_t offset;
  std::int64_t k;
  Space<T> space;
};

// Ranks for users begin … end-1. `scores` holds one row per user from `first` on: x0·y0 − xs·ys as
// a matrix product gave it, overwritten here. `time` holds the items' y0.
void topk_rows(const TopK<float>&, std::int64_t first, std::int64_t begin, std::int64_t end,
               float* scores, const float* time, float* distance, std::int64_t* index);
void topk_rows(const TopK<double>&, std::int64_t first, std::int64_t begin, std::int64_t end,
               double* scores, const double* time, double* distance, std::int64_t* index);

// The seen items of all users as CSR, and what to draw; see hdrm/ops/ranking.py.
struct NegativeSampling {
  const std::int64_t* users;  // (batch,)
  std::int64_t batch;
  const std::int64_t* rowptr;  // (num_users + 1,)
  std::int64_t num_users;
  const std::int32_t* col;  // (num_entries,): item + offset, ascending within a row
  std::int64_t num_entries, offset, num_items;
  std::int64_t num;  // draws per user
  std::int64_t seed;
};

// out (batch, num) ← item ids that the user has not seen.
//
// Throws std::invalid_argument for a user out of range, for one who has seen every item, and for a
// row that does not lie in col.
void sample_negatives(const Parallel& parallel, const NegativeSampling& in, std::int64_t* out);

}  // namespace hdrm::cpu
