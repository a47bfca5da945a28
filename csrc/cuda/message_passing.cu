// Sums over neighbours, a row owned by one group of lanes or one block: no atomics, the same bits
// on every run.
//
// Light rows, of fewer than `segment` edges, take a group of 8, 16 or 32 lanes each, which read the
// columns' ids together and hold the row in registers. Heavy rows are cut in even pieces: a block
// sums each into a row of `partial`, and another kernel adds the pieces in order. A row with the
// edges begin … end − 1 has one piece for each multiple of `segment` in (begin, end], so that there
// are num_entries / segment pieces at most, whatever the graph looks like: a number known on the
// host.
#include "ops/message_passing.h"

#include <algorithm>
#include <bit>

#include "cuda/gather.cuh"
#include "rows/message_passing.h"

namespace hdrm {
namespace {

using namespace cuda;

constexpr int kThreads = 128, kBlocks = 3;  // in a block, and blocks on a multiprocessor
constexpr int kMaxWideBlocks = 1 << 10;
constexpr std::int64_t kSmallestSegment = 1 << 8, kLargestSegment = 1 << 20;

// What a round's kernels know. Nodes beyond the first `num_nodes` do not exist.
template <class S, class W>
struct Round {
  using T = Arithmetic<S>;
  const std::int64_t* rowptr;
  const std::int32_t* col;
  std::int64_t num_nodes;
  int width, lanes;
  RoundEnd<T> end;
  const S* source;  // x or the gradient: what every round adds …
  const T* factor;  // … times this of each node, if not null
  const W* table;   // what is gathered, if it is not the source times its factors
  W* next;          // filled by all rounds but the last, which fills `out`
  const S* x;       // points whose logmap0 the gradient goes through
  S* out;
  std::int64_t segment, num_pieces;
  std::int64_t* owner = nullptr;  // the row of each piece, or −1
  T* partial = nullptr;           // the sum of each piece
  T* wide = nullptr;  // a row for each warp, where a group's registers do not hold one
};

// factor ← T of each node, times logmap0's scale of its row if the source holds points. Narrow
// tables: next ← what the first round gathers.
template <class S, class W, int kQuads, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks)
    map_factors(const Round<S, W> r, Arithmetic<S>* factor) {
  using T = Arithmetic<S>;
  using Lanes = Group<kQuads, kVector>;
  constexpr bool kNarrow = Propagation<S, W>::kNarrow;
  const Lanes group(r.lanes, r.width);
  const int groups = kThreads / r.lanes, own = threadIdx.x / r.lanes;
  for (std::int64_t first = std::int64_t(blockIdx.x) * groups; first < r.num_nodes;
       first += std::int64_t(gridDim.x) * groups) {
    const bool exists = first + own < r.num_nodes;
    const std::int64_t node = exists ? first + own : r.num_nodes - 1;
    const std::int64_t degree = r.rowptr[node + 1] - r.rowptr[node];
    T value = NodeScale<T>(degree, r.end.symmetric, r.end.transposed).before;
    const S* row = r.source + node * r.width;
    W* next = r.next + node * r.width;
    if (Lanes::kHoldsAll || r.width <= group.chunk()) {
      T held[Lanes::kElements];
      group.load(row, held);
      if (r.end.of_points) value *= logmap0_scale(group, r.end.space, held, r.width);
      first_row(group, value, held, held, r.width);
      if (kNarrow && exists) group.store(next, held);
    } else {  // the group is a warp
      if (r.end.of_points) value *= logmap0_scale(Warp(), r.end.space, row, r.width);
      if (kNarrow && exists) first_row(Warp(), value, row, next, r.width);
    }
    if (exists && group.leads()) factor[node] = value;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    node_factors(const std::int64_t* rowptr, std::int64_t num_nodes, bool symmetric,
                 bool transposed, T* factor) {
  for (std::int64_t node = std::int64_t(blockIdx.x) * kThreads + threadIdx.x; node < num_nodes;
       node += std::int64_t(gridDim.x) * kThreads) {
    factor[node] = NodeScale<T>(rowptr[node + 1] - rowptr[node], symmetric, transposed).before;
  }
}

// owner[p] ← the row that has (p + 1)·segment in (begin, end], or −1 if it is light.
__global__ void __launch_bounds__(kThreads, kBlocks)
    find_owners(const std::int64_t* rowptr, std::int64_t num_nodes, std::int64_t segment,
                std::int64_t num_pieces, std::int64_t* owner) {
  for (std::int64_t piece = std::int64_t(blockIdx.x) * kThreads + threadIdx.x; piece < num_pieces;
       piece += std::int64_t(gridDim.x) * kThreads) {
    const std::int64_t edge = (piece + 1) * segment - 1;
    std::int64_t row = 0, after = num_nodes;
    while (after - row > 1) {  // the row is one of row … after − 1
      const std::int64_t middle = (row + after) / 2;
      const bool here = rowptr[middle] <= edge;
      row = here ? middle : row;
      after = here ? after : middle;
    }
    const bool heavy = rowptr[row + 1] - rowptr[row] >= segment;
    owner[piece] = heavy ? row : -1;
  }
}

// The pieces of a heavy row.
struct Pieces {
  std::int64_t begin, end, first, count;

  __device__ Pieces(const std::int64_t* rowptr, std::int64_t row, std::int64_t segment)
      : begin(rowptr[row]), end(rowptr[row + 1]), first(begin / segment),
        count(end / segment - first) {}

  // The first edge of the part of a piece, one of `parts`.
  __device__ __forceinline__ std::int64_t edge(std::int64_t piece, int part, int parts) const {
    const std::int64_t from = begin + (end - begin) * (piece - first) / count;
    const std::int64_t to = begin + (end - begin) * (piece - first + 1) / count;
    return from + (to - from) * part / parts;
  }
};

// partial ← the sum of a piece, by the block: its groups take a part each.
template <class S, class W, class G, int kQuads, bool kVector>
__device__ __forceinline__ void sum_piece(const Round<S, W>& r, const G* table,
                                          const Arithmetic<S>* factor, std::int64_t piece) {
  using T = Arithmetic<S>;
  using Lanes = Group<kQuads, kVector>;
  HDRM_SHARED_ARRAY(T, part, [kThreads * Lanes::kElements]);
  const std::int64_t row = r.owner[piece];
  if (row < 0) return;
  const Lanes group(r.lanes, r.width);
  const int groups = kThreads / r.lanes, own = threadIdx.x / r.lanes, chunk = group.chunk();
  const Pieces pieces(r.rowptr, row, r.segment);
  const std::int64_t begin = pieces.edge(piece, own, groups);
  const int count = static_cast<int>(pieces.edge(piece, own + 1, groups) - begin);
  for (int first = 0; first < r.width; first += chunk) {
    T sum[Lanes::kElements];
    gather(group, table, factor, r.col + begin, count, first, sum);
    __syncthreads();  // before the next columns are written there
    for (int q = 0; q < kQuads; ++q) {
      group.place(q, 0, chunk).store(part + own * chunk, sum + kHeld * q);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < chunk && first + c < r.width; c += kThreads) {
      T total = 0;
      for (int g = 0; g < groups; ++g) total += part[g * chunk + c];
      r.partial[piece * r.width + first + c] = total;
    }
  }
}

// The group's node, if it is light, and whatever a group without one can do unseen.
template <class S, class W, class G, int kQuads, bool kVector>
__device__ __forceinline__ void settle_light(const Round<S, W>& r, const G* table,
                                             const Arithmetic<S>* factor, std::int64_t node) {
  using T = Arithmetic<S>;
  using Lanes = Group<kQuads, kVector>;
  const Lanes group(r.lanes, r.width);
  const bool exists = node < r.num_nodes;
  node = exists ? node : r.num_nodes - 1;
  const std::int64_t begin = r.rowptr[node], degree = r.rowptr[node + 1] - begin;
  const bool light = exists && degree < r.segment;
  const int count = light ? static_cast<int>(degree) : 0;
  const std::int64_t row = node * r.width;
  const T own_factor = r.factor ? r.factor[node] : T(1);
  T sum[Lanes::kElements];
  if (Lanes::kHoldsAll || r.width <= group.chunk()) {
    gather(group, table, factor, r.col + begin, count, 0, sum);
    T self[Lanes::kElements], source[Lanes::kElements], x[Lanes::kElements];
    T result[Lanes::kElements];
    if (!r.end.of_source) group.load(r.table + row, self);
    group.load(r.source + row, source);
    if (r.end.through_map) group.load(r.x + row, x);
    settle_row(group, r.end, degree, sum, self, own_factor, source, x, result, result, r.width);
    if (light && r.end.last) group.store(r.out + row, result);
    if (light && !r.end.last) group.store(r.next + row, result);
  } else if (light) {  // the group is a warp
    T* wide = r.wide + (std::int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32) * r.width;
    __syncwarp();  // before the row of the last node is overwritten
    for (int first = 0; first < r.width; first += group.chunk()) {
      gather(group, table, factor, r.col + begin, count, first, sum);
      group.store(wide, sum, first);
    }
    __syncwarp();
    settle_row(Warp(), r.end, degree, wide, r.table + row, own_factor, r.source + row,
               r.x ? r.x + row : nullptr, r.next + row, r.out + row, r.width);
  }
}

// Sums the pieces of heavy rows and settles light rows, which gather `table`.
template <class S, class W, class G, int kQuads, bool kVector>
__global__ void __launch_bounds__(kThreads, kBlocks)
    round_rows(const Round<S, W> r, const G* table, const Arithmetic<S>* factor) {
  const int groups = kThreads / r.lanes;
  const std::int64_t jobs = r.num_pieces + (r.num_nodes + groups - 1) / groups;
  for (std::int64_t job = blockIdx.x; job < jobs; job += gridDim.x) {
    if (job < r.num_pieces) {
      sum_piece<S, W, G, kQuads, kVector>(r, table, factor, job);
    } else {
      const std::int64_t node = (job - r.num_pieces) * groups + threadIdx.x / r.lanes;
      settle_light<S, W, G, kQuads, kVector>(r, table, factor, node);
    }
  }
}

// Settles heavy rows, each in the block of its first piece, whose sum becomes that of the row.
template <class S, class W>
__global__ void __launch_bounds__(kThreads, kBlocks) heavy_rows(const Round<S, W> r) {
  using T = Arithmetic<S>;
  HDRM_SHARED_ARRAY(T, part, [kThreads]);
  int columns = kThreads;
  while (columns / 2 >= r.width) columns /= 2;
  const int slots = kThreads / columns, slot = threadIdx.x / columns;
  for (std::int64_t piece = blockIdx.x; piece < r.num_pieces; piece += gridDim.x) {
    const std::int64_t node = r.owner[piece], row = node * r.width;
    if (node < 0 || (piece > 0 && r.owner[piece - 1] == node)) continue;
    const Pieces pieces(r.rowptr, node, r.segment);
    T* sum = r.partial + piece * r.width;
    for (int c = threadIdx.x % columns; c - static_cast<int>(threadIdx.x) % columns < r.width;
         c += columns) {
      T total = 0;
#pragma unroll 8
      for (std::int64_t p = slot; p < pieces.count; p += slots) {
        total += c < r.width ? sum[p * r.width + c] : T(0);
      }
      part[threadIdx.x] = total;
      __syncthreads();
      for (int s = 1; s < slots && slot == 0; ++s) total += part[s * columns + threadIdx.x];
      if (slot == 0 && c < r.width) sum[c] = total;
      __syncthreads();
    }
    const T factor = r.factor ? r.factor[node] : T(1);
    settle_row(Block(), r.end, pieces.end - pieces.begin, sum, r.table + row, factor,
               r.source + row, r.x ? r.x + row : nullptr, r.next + row, r.out + row, r.width);
  }
}

// Calls launch(Group, …) with the widest group that the tables allow.
template <class T, class Launch>
void with_group(bool vector, int width, Launch launch) {
  constexpr int kWide = 16 / static_cast<int>(sizeof(T));  // quads
  if (!vector) return launch(std::type_identity<Group<1, false>>());
  if (width <= 32 * kHeld) return launch(std::type_identity<Group<1, true>>());
  launch(std::type_identity<Group<kWide, true>>());
}

// The rounds of either direction: out ← (Σ Â^l·s over l = 1 … L, and s itself for the mean)·scale
// by Horner's rule, with s = source·factor/T. Work tables hold T·t, ready to be gathered.
template <class S, class W>
void run_rounds(const Stream& stream, const Propagation<S, W>& p, bool transposed, const S* source,
                const S* x, S* out) {
  using T = Arithmetic<S>;
  constexpr bool kNarrow = Propagation<S, W>::kNarrow;
  if (p.num_nodes == 0) return;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  const T scale = p.mean ? 1 / (static_cast<T>(p.num_layers) + 1) : T(1);
  const bool of_points = p.lorentz && !transposed;
  const std::int64_t mean_degree = (p.num_entries + p.num_nodes - 1) / p.num_nodes;
  // Not shorter than the mean degree, so that the pieces need no more than one table.
  const std::int64_t segment = std::clamp<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(mean_degree)), kSmallestSegment, kLargestSegment);
  Round<S, W> r{p.rowptr, p.col, p.num_nodes, p.width, p.width <= 32 ? 8 : p.width <= 64 ? 16 : 32,
                {p.space, p.symmetric, transposed, of_points, x != nullptr, false, false,
                 p.mean ? T(1) : T(0), scale},
                source, nullptr, nullptr, nullptr, x, out, segment, p.num_entries / segment};
  const int groups = kThreads / r.lanes;
  if (r.num_pieces > 0) {
    r.owner = scratch<std::int64_t>(stream, r.num_pieces);
    r.partial = scratch<T>(stream, r.num_pieces * p.width);
    HDRM_LAUNCH(find_owners, blocks_for(r.num_pieces, kThreads), kThreads, 0, handle, p.rowptr,
                p.num_nodes, segment, r.num_pieces, r.owner);
  }
  bool vector = takes_quads(source, p.width) && takes_quads(out, p.width);
  if (x) vector = vector && takes_quads(x, p.width);
  for (int l = kNarrow ? 1 : 2; l <= p.num_layers && l <= 3; ++l) {
    vector = vector && takes_quads(p.work[l % 2], p.width);
  }
  with_group<T>(vector, p.width, [&]<int kQuads, bool kVector>(
                                     std::type_identity<Group<kQuads, kVector>>) {
    const std::int64_t jobs = r.num_pieces + (p.num_nodes + groups - 1) / groups;
    unsigned blocks = blocks_for(jobs, 1);
    if (p.width > r.lanes * kQuads * kHeld) {
      blocks = std::min<unsigned>(blocks, kMaxWideBlocks);
      r.wide = scratch<T>(stream, std::int64_t(blocks) * groups * p.width);
    }
    if (kNarrow) r.next = p.work[1];
    if (of_points || kNarrow) {
      HDRM_LAUNCH_AS("map_factors", (map_factors<S, W, kQuads, kVector>),
                     blocks_for(p.num_nodes, groups), kThreads, 0, handle, r, p.factor);
    } else if (p.symmetric || transposed) {
      HDRM_LAUNCH_AS("node_factors", (node_factors<T>),
                     blocks_for(p.num_nodes, kThreads), kThreads, 0, handle, p.rowptr,
                     p.num_nodes, p.symmetric, transposed, p.factor);
    }
    if (p.symmetric || transposed || of_points || kNarrow) r.factor = p.factor;
    for (std::int64_t layer = 1; layer <= p.num_layers; ++layer) {
      r.end.of_source = layer == 1 && !kNarrow;
      r.end.last = layer == p.num_layers;
      r.table = p.work[layer % 2];
      r.next = p.work[(layer + 1) % 2];
      const auto launch = [&]<class G>(const G* table, const T* factor) {
        HDRM_LAUNCH_AS("round_rows", (round_rows<S, W, G, kQuads, kVector>), blocks, kThreads, 0,
                       handle, r, table, factor);
      };
      if constexpr (!kNarrow) {
        if (r.end.of_source) launch(r.source, r.factor);
      }
      if (!r.end.of_source) launch(r.table, static_cast<const T*>(nullptr));
      if (r.num_pieces > 0) {
        HDRM_LAUNCH_AS("heavy_rows", (heavy_rows<S, W>), blocks_for(r.num_pieces, 1), kThreads, 0,
                       handle, r);
      }
    }
  });
}

}  // namespace

template <class S, class W>
void propagate(const cuda::Stream& stream, const Propagation<S, W>& p, const S* x, S* out) {
  run_rounds(stream, p, false, x, static_cast<const S*>(nullptr), out);
}

template <class S, class W>
void propagate_backward(const cuda::Stream& stream, const Propagation<S, W>& p, const S* g,
                        const S* x, S* gx) {
  run_rounds(stream, p, true, g, p.lorentz ? x : nullptr, gx);
}

#define HDRM_DEFINE(S, W)                                                                  \
  template void propagate(const cuda::Stream&, const Propagation<S, W>&, const S*, S*);    \
  template void propagate_backward(const cuda::Stream&, const Propagation<S, W>&, const S*, \
                                   const S*, S*);
HDRM_DEFINE(float, float)
HDRM_DEFINE(double, double)
HDRM_DEFINE(Bfloat16, float)
HDRM_DEFINE(Half, float)
HDRM_DEFINE(float, Bfloat16)
HDRM_DEFINE(Bfloat16, Bfloat16)
HDRM_DEFINE(Half, Bfloat16)

}  // namespace hdrm
