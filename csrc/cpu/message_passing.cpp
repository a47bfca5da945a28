// Sums over neighbours, a row owned by one worker: no atomics, the same bits for any number of
// threads. Rows are shared out by edges, not by count; one with more than kSegment edges is summed
// in segments of that length by several workers, and the segments are added in order.
//
// Wide tables of few nodes are walked kTile columns at a time, and each such tile lies by itself:
// what a worker gathers from is then smaller by width / kTile, and stays in its cache.
#include "ops/message_passing.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/clones.h"
#include "cpu/team.h"
#include "rows/message_passing.h"

namespace hdrm {
namespace {

constexpr std::int64_t kSegment = 4096;
constexpr int kTile = 64;      // columns whose sums stay in registers
constexpr int kPrefetch = 16;  // edges ahead, of whatever row they are
// Bytes of a tile that is worth a copy. Users gather from items and items from users, so that about
// half of it has to fit a core's cache.
constexpr std::int64_t kCachedBytes = 4 << 20;

// A tile's columns as a walk over a row: the time is in the first tile.
struct TileTeam : Serial {
  bool first;
  HDRM_FN bool leads() const { return first; }
};

// Which rows a worker takes, and which rows are cut.
struct Plan {
  std::vector<std::int64_t> cuts;        // worker k takes rows cuts[k] … cuts[k+1]-1
  std::vector<std::int64_t> heavy;       // rows of more than kSegment edges, ascending
  std::vector<std::int64_t> first;       // of heavy row k: its first segment
  std::vector<std::int64_t> begin, end;  // edges of each segment

  Plan(const std::int64_t* rowptr, std::int64_t num_nodes, int num_workers) {
    std::vector<std::int64_t> before{0};  // edges of the heavy rows before each
    for (std::int64_t i = 0; i < num_nodes; ++i) {
      if (rowptr[i + 1] - rowptr[i] <= kSegment) continue;
      heavy.push_back(i);
      before.push_back(before.back() + rowptr[i + 1] - rowptr[i]);
      first.push_back(static_cast<std::int64_t>(begin.size()));
      for (std::int64_t e = rowptr[i]; e < rowptr[i + 1]; e += kSegment) {
        begin.push_back(e);
        end.push_back(std::min(e + kSegment, rowptr[i + 1]));
      }
    }
    first.push_back(static_cast<std::int64_t>(begin.size()));
    constexpr std::int64_t kPerRow = 8;  // a row costs about this many edges besides its own
    const auto work_before = [&](std::int64_t i) {
      const auto k = std::lower_bound(heavy.begin(), heavy.end(), i) - heavy.begin();
      return kPerRow * i + rowptr[i] - rowptr[0] - before[k];
    };
    const std::int64_t total = work_before(num_nodes);
    cuts.push_back(0);
    for (int worker = 1; worker < num_workers; ++worker) {
      std::int64_t low = cuts.back(), high = num_nodes;
      while (low < high) {
        const std::int64_t middle = low + (high - low) / 2;
        const bool enough = work_before(middle) * num_workers >= total * worker;
        (enough ? high : low) = enough ? middle : middle + 1;
      }
      cuts.push_back(low);
    }
    cuts.push_back(num_nodes);
  }
};

// One round over all nodes: gather, then what settle_row makes of the sum. Tables of W hold tile
// after tile: the one from column k on, of w columns, as rows of w numbers from k·num_nodes on.
template <class S, class W>
struct Round {
  using T = Arithmetic<S>;
  const Propagation<S, W>* p;
  const Plan* plan;
  int tile;         // columns of a tile, but for the last one's
  const S* source;  // x or the gradient: what every round adds …
  const T* factor;  // … times this of each node, if not null
  const W* table;   // what the round gathers; null for the source times its factors
  T* partial;       // sums of the segments of heavy rows
  RoundEnd<T> end;
  W* next;     // filled by all rounds but the last, which fills `out`
  const S* x;  // points whose logmap0 the gradient goes through, or null
  S* out;

  // f(first column, columns) for every tile.
  template <class F>
  HDRM_FN void tiles(F f) const {
    for (int k = 0; k < p->width; k += tile) f(k, std::min(tile, p->width - k));
  }
};

// sum[0 … W) ← Σ factor[col[e]]·table[col[e]] over the edges; factor null means 1.
template <int W, class S, class T>
HDRM_FN void gather_columns(const S* table, const T* factor, int stride, const std::int32_t* col,
                            std::int64_t begin, std::int64_t end, std::int64_t last, T* sum) {
  T local[W] = {};
  for (std::int64_t e = begin; e < end; ++e) {
    const S* row = table + static_cast<std::int64_t>(col[e]) * stride;
    const S* ahead = table + static_cast<std::int64_t>(col[std::min(e + kPrefetch, last)]) * stride;
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

// The same for all columns of a tile.
template <class S, class T>
HDRM_FN void gather_tile(const S* table, const T* factor, int width, const std::int32_t* col,
                         std::int64_t begin, std::int64_t end, std::int64_t last, T* sum) {
  int k = 0;
  const auto columns = [&]<int W>() __attribute__((always_inline)) {
    for (; k + W <= width; k += W) {
      gather_columns<W>(table + k, factor, width, col, begin, end, last, sum + k);
    }
  };
  columns.template operator()<kTile>();
  columns.template operator()<16>();
  columns.template operator()<4>();
  columns.template operator()<1>();
}

template <class S, class W>
HDRM_FN void gather(const Round<S, W>& r, int first, int width, std::int64_t begin,
                    std::int64_t end, Arithmetic<S>* sum) {
  const Propagation<S, W>& p = *r.p;
  const std::int64_t last = p.rowptr[p.num_nodes] - 1;
  if (r.table) {
    const Arithmetic<S>* const none = nullptr;
    gather_tile(r.table + first * p.num_nodes, none, width, p.col, begin, end, last, sum);
  } else {
    gather_tile(r.source, r.factor, width, p.col, begin, end, last, sum);
  }
}

template <int kBytes, class S, class W>
HDRM_FN void run_factors(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Propagation<S, W>& p = *r.p;
  const Host<kBytes> team;
  for (std::int64_t i = begin; i < end; ++i) {
    const NodeScale<T> node(p.rowptr[i + 1] - p.rowptr[i], p.symmetric, r.end.transposed);
    const S* row = r.source + i * p.width;
    p.factor[i] =
        node.before * (r.end.of_points ? logmap0_scale(team, p.space, row, p.width) : T(1));
  }
}

// next ← what round 1 gathers, in tiles.
template <int kBytes, class S, class W>
HDRM_FN void run_pack(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  for (std::int64_t i = begin; i < end; ++i) {
    const T factor = r.factor ? r.factor[i] : T(1);
    r.tiles([&](int first, int width) __attribute__((always_inline)) {
      first_row(TileTeam{{}, first == 0}, factor, r.source + i * r.p->width + first,
                r.next + first * r.p->num_nodes + i * width, width);
    });
  }
}

template <int kBytes, class S, class W>
HDRM_FN void run_segments(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {
  r.tiles([&](int first, int width) __attribute__((always_inline)) {
    for (std::int64_t s = begin; s < end; ++s) {
      gather(r, first, width, r.plan->begin[s], r.plan->end[s],
             r.partial + s * r.p->width + first);
    }
  });
}

template <int kBytes, class S, class W>
HDRM_FN void run_nodes(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Propagation<S, W>& p = *r.p;
  const Plan& plan = *r.plan;
  std::vector<T> sum(r.tile);
  RoundEnd<T> how = r.end;
  how.of_points = how.through_map = false;  // what these need of a row is known, or comes later
  how.of_source = !r.table;
  r.tiles([&](int first, int width) __attribute__((always_inline)) {
    const TileTeam team{{}, first == 0};
    auto heavy =
        std::lower_bound(plan.heavy.begin(), plan.heavy.end(), begin) - plan.heavy.begin();
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t degree = p.rowptr[i + 1] - p.rowptr[i];
      if (degree <= kSegment) {
        gather(r, first, width, p.rowptr[i], p.rowptr[i + 1], sum.data());
      } else {
        std::fill(sum.begin(), sum.end(), T(0));
        for (std::int64_t s = plan.first[heavy]; s < plan.first[heavy + 1]; ++s) {
          const T* partial = r.partial + s * p.width + first;
          team.each(width, [&](int k) { sum[k] += partial[k]; });
        }
        ++heavy;
      }
      const std::int64_t row = i * p.width + first, place = first * p.num_nodes + i * width;
      if (r.end.of_points && r.end.last) {
        const Host<kBytes> whole;
        how.weight =
            r.end.weight * logmap0_scale(whole, p.space, r.source + i * p.width, p.width);
      }
      settle_row(team, how, degree, sum.data(), r.table ? r.table + place : nullptr,
                 r.factor ? r.factor[i] : T(1), r.source + row, static_cast<const S*>(nullptr),
                 r.next + place, r.out + row, width);
    }
  });
}

template <int kBytes, class S, class W>
HDRM_FN void run_map(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {
  const Host<kBytes> team;
  const int n = r.p->width;
  for (std::int64_t row = begin * n; row < end * n; row += n) {
    S* out = r.out + row;
    through_logmap0<Arithmetic<S>>(team, r.end.space, r.x + row, [&](int k) { return out[k]; }, out,
                                   n);
    out[0] = 0;
  }
}

// Functions of their own for each type, since levels are not made of templates.
#define HDRM_LOOP(level, bytes, name, S, W)                                      \
  level void name(const Round<S, W>& r, std::int64_t begin, std::int64_t end) {   \
    run_##name<bytes>(r, begin, end);                                            \
  }
#define HDRM_LOOPS(name)                         \
  HDRM_LEVELS(HDRM_LOOP, name, float, float)       \
  HDRM_LEVELS(HDRM_LOOP, name, double, double)     \
  HDRM_LEVELS(HDRM_LOOP, name, Bfloat16, float)    \
  HDRM_LEVELS(HDRM_LOOP, name, Half, float)        \
  HDRM_LEVELS(HDRM_LOOP, name, float, Bfloat16)    \
  HDRM_LEVELS(HDRM_LOOP, name, Bfloat16, Bfloat16) \
  HDRM_LEVELS(HDRM_LOOP, name, Half, Bfloat16)
HDRM_LOOPS(factors)
HDRM_LOOPS(pack)
HDRM_LOOPS(segments)
HDRM_LOOPS(nodes)
HDRM_LOOPS(map)

// The rounds of either direction: out ← (Σ Â^l·s over l = 1 … L, and s itself for the mean)·scale
// by Horner's rule, with s = source·factor/T. Work tables hold T·t, ready to be gathered.
template <class S, class W>
void run_rounds(const cpu::Parallel& parallel, const Propagation<S, W>& p, bool transposed,
                const S* source, const S* x, S* out) {
  using T = Arithmetic<S>;
  constexpr bool kNarrow = Propagation<S, W>::kNarrow;
  const Plan plan(p.rowptr, p.num_nodes, parallel.num_threads);
  const auto num_segments = static_cast<std::int64_t>(plan.begin.size());
  std::vector<T> partial(num_segments * p.width);
  const T scale = p.mean ? 1 / (static_cast<T>(p.num_layers) + 1) : T(1);
  const bool of_points = p.lorentz && !transposed;
  const bool few = p.num_nodes * kTile * static_cast<std::int64_t>(sizeof(W)) <= kCachedBytes;
  Round<S, W> r{.p = &p,
                .plan = &plan,
                .tile = few ? std::min(kTile, p.width) : p.width,
                .source = source,
                .factor = nullptr,
                .table = nullptr,
                .partial = partial.data(),
                .end = {p.space, p.symmetric, transposed, of_points, x != nullptr, false, false,
                        p.mean ? T(1) : T(0), scale},
                .next = nullptr,
                .x = x,
                .out = out};
  const std::int64_t grain = cpu::grain_rows(p.width);
  const auto rows = [&](auto loop) { parallel.loop(p.num_nodes, grain, loop); };
  if (p.symmetric || transposed || of_points) {
    rows([&](std::int64_t begin, std::int64_t end) { factors(r, begin, end); });
    r.factor = p.factor;
  }
  std::unique_ptr<W[]> own;
  if (kNarrow || r.tile < p.width) {
    r.next = p.work[1];
    // Wide tables: no scratch is at work[1] if round 1 is the last, or fills the only one there is.
    if (!kNarrow && (p.num_layers == 1 || (p.num_layers == 2 && sizeof(S) != sizeof(T)))) {
      own.reset(new W[p.num_nodes * p.width]);
      r.next = own.get();
    }
    rows([&](std::int64_t begin, std::int64_t end) { pack(r, begin, end); });
  }
  for (std::int64_t layer = 1; layer <= p.num_layers; ++layer) {
    r.end.last = layer == p.num_layers;
    r.table = r.next;
    r.next = p.work[(layer + 1) % 2];
    parallel.loop(num_segments, 1,
                  [&](std::int64_t begin, std::int64_t end) { segments(r, begin, end); });
    parallel.loop(static_cast<std::int64_t>(plan.cuts.size()) - 1, 1,
                  [&](std::int64_t begin, std::int64_t end) {
                    nodes(r, plan.cuts[begin], plan.cuts[end]);
                  });
  }
  if (x) rows([&](std::int64_t begin, std::int64_t end) { map(r, begin, end); });
}

}  // namespace

template <class S, class W>
void propagate(const cpu::Parallel& parallel, const Propagation<S, W>& p, const S* x, S* out) {
  run_rounds(parallel, p, false, x, static_cast<const S*>(nullptr), out);
}

template <class S, class W>
void propagate_backward(const cpu::Parallel& parallel, const Propagation<S, W>& p, const S* g,
                        const S* x, S* gx) {
  run_rounds(parallel, p, true, g, p.lorentz ? x : nullptr, gx);
}

#define HDRM_DEFINE(S, W)                                                                  \
  template void propagate(const cpu::Parallel&, const Propagation<S, W>&, const S*, S*);   \
  template void propagate_backward(const cpu::Parallel&, const Propagation<S, W>&, const S*, \
                                   const S*, S*);
HDRM_DEFINE(float, float)
HDRM_DEFINE(double, double)
HDRM_DEFINE(Bfloat16, float)
HDRM_DEFINE(Half, float)
HDRM_DEFINE(float, Bfloat16)
HDRM_DEFINE(Bfloat16, Bfloat16)
HDRM_DEFINE(Half, Bfloat16)

}  // namespace hdrm
