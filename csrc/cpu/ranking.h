// Top-k on the host, where torch's matrix product makes the scores; the rest is ops/ranking.h.
#pragma once

#include "ops/ranking.h"

namespace hdrm::cpu {

// Ranks for users begin … end-1. `scores` holds one row per user from `first` on: x0·y0 − xs·ys as
// a matrix product gave it, overwritten here. `time` holds the items' y0.
void topk_rows(const TopK<float>&, std::int64_t first, std::int64_t begin, std::int64_t end,
               float* scores, const float* time, float* distance, std::int64_t* index);
void topk_rows(const TopK<double>&, std::int64_t first, std::int64_t begin, std::int64_t end,
               double* scores, const double* time, double* distance, std::int64_t* index);

}  // namespace hdrm::cpu
