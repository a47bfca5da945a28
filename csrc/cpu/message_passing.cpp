// Sums over neighbours, a row owned by one worker: no atomics, the same bits for any number of
// threads. Rows are shared out by edges, not by count; one with more than kSegment edges is summed
// in segments of that length by several workers, and the segments are added in order.
#include "ops/message_passing.h"

#include <algorithm>
#include <vector>

#include "cpu/clones.h"
#include "cpu/team.h"
#include "rows/message_passing.h"

namespace hdrm {
namespace {

constexpr std::int64_t kSegment = 4096;
constexpr int kPrefetch = 6;  // neighbours ahead

// sum[0 … W) ← Σ factor[col[e]]·table[col[e]] over the edges; factor null means 1.
template <int W, class S, class T>
HDRM_FN void gather_columns(const S* table, const T* factor, const std::int32_t* col,
                            std::int64_t count, int width, T* sum) {
  T local[W] = {};
  for (std::int64_t e = 0; e < count; ++e) {
    const S* row = table + static_cast<std::int64_t>(col[e]) * width;
    const S* ahead =
        table + static_cast<std::int64_t>(col[std::min(e + kPrefetch, count - 1)]) * width;
    for (int k = 0; k < W; k += 64 / static_cast<int>(sizeof(S))) __builtin_prefetch(ahead + k);
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
template <class S, class T>
HDRM_FN void gather_row(const S* table, const T* factor, const std::int32_t* col,
                        std::int64_t count, int width, T* sum) {
  int k = 0;
  for (; k + 64 <= width; k += 64) {
    gather_columns<64>(table + k, factor, col, count, width, sum + k);
  }
  for (; k + 16 <= width; k += 16) {
    gather_columns<16>(table + k, factor, col, count, width, sum + k);
  }
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

// One round over all nodes: gather, then what settle_row makes of the sum.
template <class S>
struct Round {
  using T = Arithmetic<S>;
  const Propagation<S>* p;
  const Plan* plan;
  const S* source;  // x or the gradient: what the first round gathers and every round adds …
  const T* factor;  // … times this of each node, if not null
  const T* table;   // what the others gather
  T* partial;       // sums of the segments of heavy rows
  RoundEnd<T> end;
  T* next;     // filled by all rounds but the last, which fills `out`
  const S* x;  // points whose logmap0 the gradient goes through, or null
  S* out;
};

template <class S>
HDRM_FN void run_factors(const Round<S>& r, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Propagation<S>& p = *r.p;
  const Serial team;
  for (std::int64_t i = begin; i < end; ++i) {
    const NodeScale<T> node(p.rowptr[i + 1] - p.rowptr[i], p.symmetric, r.end.transposed);
    const S* row = r.source + i * p.width;
    p.factor[i] =
        node.before * (r.end.of_points ? logmap0_scale(team, p.space, row, p.width) : T(1));
  }
}

// Over the edges `begin` … `begin` + `count` − 1.
template <class S>
HDRM_FN void gather(const Round<S>& r, std::int64_t begin, std::int64_t count,
                    Arithmetic<S>* sum) {
  const std::int32_t* col = r.p->col + begin;
  if (!r.end.first) {
    gather_row(r.table, static_cast<const Arithmetic<S>*>(nullptr), col, count, r.p->width, sum);
  } else {
    gather_row(r.source, r.factor, col, count, r.p->width, sum);
  }
}

template <class S>
HDRM_FN void run_segments(const Round<S>& r, std::int64_t begin, std::int64_t end) {
  for (std::int64_t s = begin; s < end; ++s) {
    const std::int64_t edge = r.plan->begin[s];
    gather(r, edge, r.plan->end[s] - edge, r.partial + s * r.p->width);
  }
}

template <class S>
HDRM_FN void run_nodes(const Round<S>& r, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Serial team;
  const Propagation<S>& p = *r.p;
  const Plan& plan = *r.plan;
  const int n = p.width;
  std::vector<T> sum(n);
  auto heavy =
      std::lower_bound(plan.heavy.begin(), plan.heavy.end(), begin) - plan.heavy.begin();
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t row = i * n, degree = p.rowptr[i + 1] - p.rowptr[i];
    if (degree <= kSegment) {
      gather(r, p.rowptr[i], degree, sum.data());
    } else {
      std::fill(sum.begin(), sum.end(), T(0));
      for (std::int64_t s = plan.first[heavy]; s < plan.first[heavy + 1]; ++s) {
        team.each(n, [&](int k) { sum[k] += r.partial[s * n + k]; });
      }
      ++heavy;
    }
    settle_row(team, r.end, degree, sum.data(), r.table + row, r.factor ? r.factor[i] : T(1),
               r.source + row, r.x ? r.x + row : nullptr, r.next + row, r.out + row, n);
  }
}

// Functions of their own for each type, since clones are not made of templates.
#define HDRM_RANGES(S)                                                                         \
  HDRM_CLONES void factors(const Round<S>& r, std::int64_t begin, std::int64_t end) {          \
    run_factors(r, begin, end);                                                                \
  }                                                                                            \
  HDRM_CLONES void segments(const Round<S>& r, std::int64_t begin, std::int64_t end) {         \
    run_segments(r, begin, end);                                                               \
  }                                                                                            \
  HDRM_CLONES void nodes(const Round<S>& r, std::int64_t begin, std::int64_t end) {            \
    run_nodes(r, begin, end);                                                                  \
  }
HDRM_RANGES(float)
HDRM_RANGES(double)
HDRM_RANGES(Bfloat16)
HDRM_RANGES(Half)

// The rounds of either direction: out ← (Σ Â^l·s over l = 1 … L, and s itself for the mean)·scale
// by Horner's rule, with s = source·factor/T. Work tables hold T·t, ready to be gathered.
template <class S>
void run_rounds(const cpu::Parallel& parallel, const Propagation<S>& p, bool transposed,
                const S* source, const S* x, S* out) {
  using T = Arithmetic<S>;
  const Plan plan(p.rowptr, p.num_nodes, parallel.num_threads);
  const auto num_segments = static_cast<std::int64_t>(plan.begin.size());
  std::vector<T> partial(num_segments * p.width);
  const T scale = p.mean ? 1 / (static_cast<T>(p.num_layers) + 1) : T(1);
  Round<S> r{.p = &p,
             .plan = &plan,
             .source = source,
             .factor = nullptr,
             .table = nullptr,
             .partial = partial.data(),
             .end = {p.space, p.symmetric, transposed, p.lorentz && !transposed, x != nullptr,
                     false, false, p.mean ? T(1) : T(0), scale},
             .next = nullptr,
             .x = x,
             .out = out};
  if (p.symmetric || transposed || p.lorentz) {
    parallel.loop(p.num_nodes, 4096,
                  [&](std::int64_t begin, std::int64_t end) { factors(r, begin, end); });
    r.factor = p.factor;
  }
  for (std::int64_t layer = 1; layer <= p.num_layers; ++layer) {
    r.end.first = layer == 1;
    r.end.last = layer == p.num_layers;
    r.table = p.work[layer % 2];
    r.next = p.work[(layer + 1) % 2];
    parallel.loop(num_segments, 1,
                  [&](std::int64_t begin, std::int64_t end) { segments(r, begin, end); });
    parallel.loop(static_cast<std::int64_t>(plan.cuts.size()) - 1, 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    nodes(r, plan.cuts[begin], plan.cuts[end]);
                  });
  }
}

}  // namespace

template <class S>
void propagate(const cpu::Parallel& parallel, const Propagation<S>& p, const S* x, S* out) {
  run_rounds(parallel, p, false, x, static_cast<const S*>(nullptr), out);
}

template <class S>
void propagate_backward(const cpu::Parallel& parallel, const Propagation<S>& p, const S* g,
                        const S* x, S* gx) {
  run_rounds(parallel, p, true, g, p.lorentz ? x : nullptr, gx);
}

#define HDRM_DEFINE(S)                                                                  \
  template void propagate(const cpu::Parallel&, const Propagation<S>&, const S*, S*);   \
  template void propagate_backward(const cpu::Parallel&, const Propagation<S>&, const S*, \
                                   const S*, S*);
HDRM_DEFINE(float)
HDRM_DEFINE(double)
HDRM_DEFINE(Bfloat16)
HDRM_DEFINE(Half)

}  // namespace hdrm
