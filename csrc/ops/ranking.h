// The nearest items and negative samples; formulas in hdrm/ops/ranking.py.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/math.h"

namespace hdrm {

template <class T>
struct TopK {
  const T* users;  // points (num_users, width)
  const T* items;  // points (num_items, width)
  std::int64_t num_users, num_items;
  int width;
  const std::int64_t* rowptr;  // items that a user must not get; null for none
  const std::int32_t* col;
  std::int64_t offset;
  std::int64_t k;
  Space<T> space;
};

// distance, index (num_users, k) ← the k nearest items of each user.
template <class T>
void topk(const cpu::Parallel&, const TopK<T>&, T* distance, std::int64_t* index);
template <class T>
void topk(const cuda::Stream&, const TopK<T>&, T* distance, std::int64_t* index);

// The seen items of all users as CSR, and what to draw.
struct NegativeSampling {
  const std::int64_t* users;  // (batch,)
  std::int64_t batch;
  const std::int64_t* rowptr;  // (num_users + 1,)
  std::int64_t num_users;
  const std::int32_t* col;  // (num_entries,): item + offset, ascending within a row
  std::int64_t num_entries, offset, num_items;
  std::int64_t num;  // draws per user
  const std::int64_t* seed;
};

// out (batch, num) ← item ids that the user has not seen.
//
// For a user out of range, one who has seen every item, and a row that does not lie in col the CPU
// throws std::invalid_argument; a device, which would have to be waited for, draws −1.
void sample_negatives(const cpu::Parallel&, const NegativeSampling&, std::int64_t* out);
void sample_negatives(const cuda::Stream&, const NegativeSampling&, std::int64_t* out);

}  // namespace hdrm
