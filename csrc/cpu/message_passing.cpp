// Sums over neighbours, a row owned by one worker: no atomics, the same bits for any number of
// threads. Rows are shared out by edges, not by count; a row with more than kSegment edges is summed
// in segments of that length by several workers, and the segments are added in order.
#include "cpu/message_passing.h"

#include <algorithm>
#include <vector>

#include "cpu/clones.h"
#include "rows/message_passing.h"

namespace hdrm::cpu {
namespace {

constexpr std::int64_t kSegment = 4096;
constexpr int kPrefetch = 6;  // neighbours ahead

// sum[0 … W) ← Σ factor[col[e]]·table[col[e]] over the edges; factor null means 1.
template <int W, class T>
HDRM_FN void gather_columns(const T* table, const T* factor, const std::int32_t* col,
                            std::int64_t count, int width, T* sum) {
  T local[W] = {};
  for (std::int64_t e = 0; e < count; ++e) {
    const T* row = table + static_cast<std::int64_t>(col[e]) * width;
    const T* ahead = table + static_cast<std::int64_t>(col[std::min(e + kPrefetch, count - 1)]) * width;
    for (int k = 0; k < W; k += 64 / static_cast<int>(sizeof(T))) __builtin_prefetch(ahead + k);
    if (factor) {
      const T f = factor[col[e]];
#pragma omp simd
      for (int k = 0; k < W; ++k) local[k] += f * row[k];
    } else {
#pragma omp simd
      for (int k = 0; k < W; ++k) local[k] += row[k];
    }
  }
#pragma omp simd
  for (int k = 0; k < W; ++k) sum[k] = local[k];
}

// The same for all columns: 64 at a time stay in registers.
template <class T>
HDRM_FN void gather_row(const T* table, const T* factor, const std::int32_t* col,
                        std::int64_t count, int width, T* sum) {
  int k = 0;
  for (; k + 64 <= width; k += 64) gather_columns<64>(table + k, factor, col, count, width, sum + k);
  for (; k + 16 <= width; k += 16) gather_columns<16>(table + k, factor, col, count, width, sum + k);
  for (; k + 4 <= width; k += 4) gather_columns<4>(table + k, factor, col, count, width, sum + k);
  for (; k < width; ++k) gather_columns<1>(table + k, factor, col, count, width, sum + k);
}

// Which rows a worker takes, and which rows are cut.
struct Plan {
  std::vector<std::int64_t> cuts;          // worker k takes rows cuts[k] … cuts[k+1]-1
  std::vector<std::int64_t> heavy;         // rows of more than kSegment edges, ascending
  std::vector<std::int64_t> first;         // of heavy row k: its first segment
  std::vector<std::int64_t> begin, end;    // edges of each segment

  Plan(const std::int64_t* rowptr, std::int64_t num_nodes, int num_workers) {
    constexpr std::int64_t kPerRow = 8;  // a row costs about this many edges besides its own
    const auto weight = [&](std::int64_t i) {
      const std::int64_t degree = rowptr[i + 1] - rowptr[i];
      return kPerRow + (degree > kSegment ? 0 : degree);
    };
    std::int64_t total = 0;
    for (std::int64_t i = 0; i < num_nodes; ++i) {
      total += weight(i);
      if (rowptr[i + 1] - rowptr[i] <= kSegment) continue;
      heavy.push_back(i);
      first.push_back(static_cast<std::int64_t>(begin.size()));
      for (std::int64_t e = rowptr[i]; e < rowptr[i + 1]; e += kSegment) {
        begin.push_back(e);
        end.push_back(std::min(e + kSegment, rowptr[i + 1]));
      }
    }
    first.push_back(static_cast<std::int64_t>(begin.size()));
    cuts.push_back(0);
    std::int64_t seen = 0;
    for (std::int64_t i = 0; i < num_nodes; ++i) {
      if (seen * num_workers >= total * static_cast<std::int64_t>(cuts.size())) cuts.push_back(i);
      seen += weight(i);
    }
    cuts.push_back(num_nodes);
  }
};

// One round over all nodes: gather, then what forward_row or backward_row make of the sum.
template <class T>
struct Round {
  const Propagation<T>* p;
  const Plan* plan;
  const T* table;   // what is gathered …
  const T* factor;  // … times this of each node, if not null
  T* partial;       // sums of the segments of heavy rows
  bool transposed, first, last;
  const T *x, *g;   // forward: x;  backward: x and g
  T weight, scale;  // backward: of g;  both: of the result in the last round
  T *out, *next;
};

template <class T>
HDRM_FN void run_factors(const Round<T>& r, std::int64_t begin, std::int64_t end) {
  const Propagation<T>& p = *r.p;
  const Serial team;
  for (std::int64_t i = begin; i < end; ++i) {
    const NodeScale<T> node(p.rowptr[i + 1] - p.rowptr[i], p.symmetric, r.transposed);
    const bool map = p.lorentz && !r.transposed;
    p.factor[i] =
        node.before * (map ? logmap0_scale(team, p.space, r.x + i * p.width, p.width) : T(1));
  }
}

template <class T>
HDRM_FN void run_segments(const Round<T>& r, std::int64_t begin, std::int64_t end) {
  const int n = r.p->width;
  for (std::int64_t s = begin; s < end; ++s) {
    const std::int64_t edge = r.plan->begin[s];
    gather_row(r.table, r.factor, r.p->col + edge, r.plan->end[s] - edge, n, r.partial + s * n);
  }
}

template <class T>
HDRM_FN void run_nodes(const Round<T>& r, std::int64_t begin, std::int64_t end) {
  const Serial team;
  const Propagation<T>& p = *r.p;
  const Plan& plan = *r.plan;
  const int n = p.width;
  std::vector<T> sum(n);
  auto heavy =
      std::lower_bound(plan.heavy.begin(), plan.heavy.end(), begin) - plan.heavy.begin();
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t row = i * n, degree = p.rowptr[i + 1] - p.rowptr[i];
    if (degree <= kSegment) {
      gather_row(r.table, r.factor, p.col + p.rowptr[i], degree, n, sum.data());
    } else {
      std::fill(sum.begin(), sum.end(), T(0));
      for (std::int64_t s = plan.first[heavy]; s < plan.first[heavy + 1]; ++s) {
        team.each(n, [&](int k) { sum[k] += r.partial[s * n + k]; });
      }
      ++heavy;
    }
    if (!p.symmetric) {  // λ = 1: the node itself
      const T f = r.factor ? r.factor[i] : T(1);
      team.each(n, [&](int k) { sum[k] += f * r.table[row + k]; });
    }
    const NodeScale<T> node(degree, p.symmetric, r.transposed);
    T* next = r.next ? r.next + row : nullptr;
    if (!r.transposed) {
      T start = r.first && p.mean ? T(1) : T(0);
      if (start != 0 && p.lorentz) start = logmap0_scale(team, p.space, r.x + row, n);
      forward_row(team, node, sum.data(), r.x + row, start, r.first, r.scale, r.out + row, next, n);
    } else if (!r.last) {
      backward_row(team, node, sum.data(), r.g + row, r.weight, next, n);
    } else {
      backward_last_row(team, p.space, node, sum.data(), r.g + row, r.weight, r.scale, p.lorentz,
                        r.x + row, r.out + row, n);
    }
  }
}

// Functions of their own for each type, since clones are not made of templates.
#define HDRM_RANGES(T)                                                                         \
  HDRM_CLONES void factors(const Round<T>& r, std::int64_t begin, std::int64_t end) {          \
    run_factors(r, begin, end);                                                                \
  }                                                                                            \
  HDRM_CLONES void segments(const Round<T>& r, std::int64_t begin, std::int64_t end) {         \
    run_segments(r, begin, end);                                                               \
  }                                                                                            \
  HDRM_CLONES void nodes(const Round<T>& r, std::int64_t begin, std::int64_t end) {            \
    run_nodes(r, begin, end);                                                                  \
  }
HDRM_RANGES(float)
HDRM_RANGES(double)

// The rounds of either direction. The first gathers `source` times a factor per node; the others
// gather the work table that the round before filled, already scaled.
template <class T>
void run_rounds(const Parallel& parallel, const Propagation<T>& p, bool transposed,
                const T* source, const T* x, const T* g, T* out) {
  const Plan plan(p.rowptr, p.num_nodes, parallel.num_threads);
  const auto num_segments = static_cast<std::int64_t>(plan.begin.size());
  std::vector<T> partial(num_segments * p.width);
  Round<T> r{};
  r.p = &p;
  r.plan = &plan;
  r.partial = partial.data();
  r.transposed = transposed;
  r.x = x;
  r.g = g;
  r.out = out;
  const bool plain = !p.symmetric && (transposed ? false : !p.lorentz);
  if (!plain) {
    parallel.loop(p.num_nodes, 4096,
                  [&](std::int64_t begin, std::int64_t end) { factors(r, begin, end); });
  }
  for (int layer = 1; layer <= p.num_layers; ++layer) {
    r.first = layer == 1;
    r.last = layer == p.num_layers;
    r.table = r.first ? source : p.work[layer % 2];
    r.factor = r.first && !plain ? p.factor : nullptr;
    r.next = r.last ? nullptr : p.work[(layer + 1) % 2];
    r.weight = r.last && !p.mean ? T(0) : T(1);
    r.scale = r.last && p.mean ? T(1) / (p.num_layers + 1) : T(1);
    parallel.loop(num_segments, 1,
                  [&](std::int64_t begin, std::int64_t end) { segments(r, begin, end); });
    parallel.loop(static_cast<std::int64_t>(plan.cuts.size()) - 1, 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    nodes(r, plan.cuts[begin], plan.cuts[end]);
                  });
  }
}

}  // namespace

template <class T>
void propagate(const Parallel& parallel, const Propagation<T>& p, const T* x, T* out) {
  run_rounds(parallel, p, false, x, x, static_cast<const T*>(nullptr), out);
}

template <class T>
void propagate_backward(const Parallel& parallel, const Propagation<T>& p, const T* g, const T* x,
                        T* gx) {
  run_rounds(parallel, p, true, g, x, g, gx);
}

template void propagate(const Parallel&, const Propagation<float>&, const float*, float*);
template void propagate(const Parallel&, const Propagation<double>&, const double*, double*);
template void propagate_backward(const Parallel&, const Propagation<float>&, const float*,
                                 const float*, float*);
template void propagate_backward(const Parallel&, const Propagation<double>&, const double*,
                                 const double*, double*);

}  // namespace hdrm::cpu
