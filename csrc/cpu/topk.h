#pragma once

#include <cstdint>

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

}  // namespace hdrm::cpu
