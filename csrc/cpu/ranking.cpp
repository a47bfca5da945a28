#include "cpu/ranking.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/row_kernel.h"
#include "ops/row_ops.h"
#include "rows/ranking.h"

namespace hdrm {
namespace cpu {

// The hinge --------------------------------------------------------------------------------------

HDRM_HINGES(HDRM_ROW_KERNEL)

// Top-k -----------------------------------------------------------------------------------------

namespace {

// A matrix product's score s stands for a true score within s ± error·x0·y0. The k smallest upper
// ends bound what can be among the k nearest; all whose lower end is below get their distance, and
// the distance orders them.
template <class T>
struct Scores {
  const T *s, *time;
  T slack;  // error·x0
  std::int64_t size;
  HDRM_FN T lower(std::int64_t i) const { return s[i] - slack * time[i]; }
  HDRM_FN T upper(std::int64_t i) const { return s[i] + slack * time[i]; }
};

// The k-th smallest of the upper ends that `upper_of(j)` lists; infinity if there are fewer.
template <class T, class F>
HDRM_FN T kth_upper(std::int64_t k, std::int64_t count, F upper_of, std::vector<T>& work) {
  if (count < k) return std::numeric_limits<T>::infinity();
  work.resize(count);
  for (std::int64_t j = 0; j < count; ++j) work[j] = upper_of(j);
  std::nth_element(work.begin(), work.begin() + (k - 1), work.end());
  return work[k - 1];
}

// Every i whose lower end is at most `bound`.
template <class T>
HDRM_FN void within(const Scores<T>& scores, T bound, std::vector<std::int64_t>& found) {
  constexpr int kChunk = 16;  // most hold nobody, which one comparison of vectors tells
  found.clear();
  for (std::int64_t first = 0; first < scores.size; first += kChunk) {
    const int count = static_cast<int>(std::min<std::int64_t>(kChunk, scores.size - first));
    int hits = 0;
#pragma omp simd reduction(+ : hits)
    for (int j = 0; j < count; ++j) hits += scores.lower(first + j) <= bound ? 1 : 0;
    if (hits == 0) continue;
    for (int j = 0; j < count; ++j) {
      if (scores.lower(first + j) <= bound) found.push_back(first + j);
    }
  }
}

template <class T>
HDRM_FN void run_topk(const TopK<T>& t, std::int64_t first, std::int64_t begin, std::int64_t end,
                      T* all_scores, const T* time, T* distance, std::int64_t* index) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const Serial team;
  const T error = 2 * t.width * std::numeric_limits<T>::epsilon();
  std::vector<T> work;
  std::vector<std::int64_t> near;
  std::vector<std::pair<T, std::int64_t>> ranked;
  for (std::int64_t u = begin; u < end; ++u) {
    T* s = all_scores + (u - first) * t.num_items;
    const T* x = t.users + u * t.width;
    if (t.rowptr) {
      for (std::int64_t e = t.rowptr[u]; e < t.rowptr[u + 1]; ++e) {
        s[t.col[e] - t.offset] = kInfinity;
      }
    }
    const T xx = team.template sum<T>(t.width, [&](int i) { return x[i] * x[i]; });
    const Scores<T> scores{s, time, error * std::sqrt(t.space.K + xx), t.num_items};
    // A sample of the items bounds the k-th of all from above, the items within that bound exactly.
    const std::int64_t step = std::max<std::int64_t>(1, t.num_items / (32 * t.k));
    const T rough = kth_upper(
        t.k, t.num_items / step, [&](std::int64_t j) { return scores.upper(j * step); }, work);
    within(scores, rough, near);
    const T bound = kth_upper(
        t.k, static_cast<std::int64_t>(near.size()),
        [&](std::int64_t j) { return scores.upper(near[j]); }, work);
    ranked.clear();
    for (const std::int64_t i : near) {
      if (!(scores.lower(i) <= bound) || s[i] == kInfinity) continue;
      ranked.emplace_back(point_distance(team, t.space, x, t.items + i * t.width, t.width), i);
    }
    const auto count = std::min<std::int64_t>(t.k, ranked.size());
    std::partial_sort(ranked.begin(), ranked.begin() + count, ranked.end());
    for (std::int64_t j = 0; j < t.k; ++j) {
      distance[u * t.k + j] = j < count ? ranked[j].first : kInfinity;
      index[u * t.k + j] = j < count ? ranked[j].second : -1;
    }
  }
}

}  // namespace

#define HDRM_TOPK(T)                                                                            \
  HDRM_CLONES void topk_rows(const TopK<T>& t, std::int64_t first, std::int64_t begin,          \
                             std::int64_t end, T* scores, const T* time, T* distance,           \
                             std::int64_t* index) {                                             \
    run_topk(t, first, begin, end, scores, time, distance, index);                              \
  }
HDRM_TOPK(float)
HDRM_TOPK(double)

}  // namespace cpu

// Negative samples -------------------------------------------------------------------------------

namespace {

constexpr std::int64_t kGrain = 1 << 10;  // draws worth waking a thread for

// By one thread before any draw, so that the first offender of the batch is named, whatever the
// number of threads.
void check(const NegativeSampling& in) {
  const auto reject = [](const std::string& what) {
    throw std::invalid_argument("sample_negatives: " + what);
  };
  std::int64_t full = -1;
  for (std::int64_t b = 0; b < in.batch; ++b) {
    const std::int64_t user = in.users[b];
    if (user < 0 || user >= in.num_users)
      reject("users must be in 0 … " + std::to_string(in.num_users - 1) + ", got " +
             std::to_string(user));
    const std::int64_t begin = in.rowptr[user], end = in.rowptr[user + 1];
    if (begin < 0 || end < begin || end > in.num_entries)
      reject("row " + std::to_string(user) + " of exclude is " + std::to_string(begin) + " … " +
             std::to_string(end) + ", but col has " + std::to_string(in.num_entries) + " entries");
    if (full < 0 && end - begin >= in.num_items) full = user;
  }
  if (full >= 0)
    reject("user " + std::to_string(full) + " has seen all " + std::to_string(in.num_items) +
           " items; leave that user out of the batch");
}

}  // namespace

void sample_negatives(const cpu::Parallel& parallel, const NegativeSampling& in,
                      std::int64_t* out) {
  check(in);
  const Words key(*in.seed);
  parallel.loop(in.batch, kGrain / in.num + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = in.rowptr[in.users[b]];
      const std::int64_t count = in.rowptr[in.users[b] + 1] - first;
      for (std::int64_t i = b * in.num; i < (b + 1) * in.num; ++i) {
        const std::int64_t rank = bounded(key, Words(i), in.num_items - count);
        out[i] = unseen_item(in.col + first, count, in.offset, rank);
      }
    }
  });
}

}  // namespace hdrm
