#pragma once

#include <cstdint>

#include "cpu/parallel.h"

namespace hdrm::cpu {

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
