// topk on the host, exact, in memory that does not grow with users × items.
//
// A product of its own gives the scores x0·y0 − xs·ys, in which the distance is monotone, a tile at
// a time, and the tile is looked through while it is in registers: a matrix product of a library
// would write U×I numbers for the few of them that matter. A score is the true one within
// ± error·x0·y0. The k-th smallest upper end of those seen so far bounds what can still be among
// the k nearest; whoever's lower end is below becomes a candidate, and the candidates that the last
// bound leaves get their distance, which orders them.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/clones.h"
#include "cpu/kept_memory.h"
#include "cpu/team.h"
#include "ops/ranking.h"
#include "rows/distance.h"

namespace hdrm {
namespace {

static_assert(std::endian::native == std::endian::little, "a byte's place in a word is its lane");

constexpr int kRows = 6;    // users of a tile: with a panel of items, what 16 registers hold
constexpr int kTiles = 8;   // tiles of users that share a walk over the items
constexpr int kBlock = 16;  // distances that are computed at once
constexpr int kBisections = 12;
constexpr int kStrides = 16;  // the walk sees all regions of the items early, whatever their order
constexpr std::int64_t kMany = 1 << 20;  // candidates that the users of a walk may have waiting

// The items' coordinates, a panel of as many items as fill 64 bytes after another. Where the last
// panel has none, its time is NaN, and no comparison finds it.
template <class T>
struct Panels {
  static constexpr int kItems = 64 / sizeof(T);
  struct alignas(64) Column {
    T of[kItems];
  };
  std::int64_t count;
  int width;
  std::unique_ptr<Column[], cpu::GiveBack> coordinates;  // (count, width)
  const Column* operator[](std::int64_t p) const { return coordinates.get() + p * width; }
};
template <class T>
using Column = typename Panels<T>::Column;

template <int kBytes, class T>
HDRM_FN T time_of(const Space<T>& space, const T* x, int width) {
  const Host<kBytes> team;
  return std::sqrt(space.K + team.template sum<T>(width, [&](int i) { return x[i] * x[i]; }));
}

template <int kBytes, class T>
HDRM_FN void pack_panels(const TopK<T>& t, const Panels<T>& panels, std::int64_t begin,
                         std::int64_t end) {
  constexpr int kItems = Panels<T>::kItems;
  for (std::int64_t p = begin; p < end; ++p) {
    Column<T>* panel = panels.coordinates.get() + p * t.width;
    for (int lane = 0; lane < kItems; ++lane) {
      const std::int64_t item = p * kItems + lane;
      const bool is_one = item < t.num_items;
      const T* y = t.items + (is_one ? item : 0) * t.width;
      panel[0].of[lane] =
          is_one ? time_of<kBytes>(t.space, y, t.width) : std::numeric_limits<T>::quiet_NaN();
      for (int i = 1; i < t.width; ++i) panel[i].of[lane] = y[i];
    }
  }
}

// Scores of `rows` users, whose coordinates are kRows apart, and the items of a panel.
template <int kBytes, int rows, class T>
HDRM_FN void multiply(const T* users, const Column<T>* panel, int width, Column<T>* scores) {
  constexpr int kLanes = kBytes / sizeof(T), kParts = sizeof(Column<T>) / kBytes;
  using Part = typename Simd<T, kLanes>::Vector;
  Part sum[rows][kParts] = {};
#pragma GCC unroll 4
  for (int i = 0; i < width; ++i) {
    Part y[kParts];
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {  // one by one, or they go through memory
      std::memcpy(&y[part], panel[i].of + part * kLanes, sizeof(Part));
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) sum[r][part] += users[i * kRows + r] * y[part];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      std::memcpy(scores[r].of + part * kLanes, &sum[r][part], sizeof(Part));
    }
  }
}

// What is known of a user's nearest.
template <class T>
struct Nearest {
  struct Candidate {
    T lower, upper;
    std::int64_t item;
  };
  const T* x;
  std::size_t patience;  // candidates before the next bound
  std::vector<Candidate> candidates;
  std::vector<std::pair<T, std::int64_t>> ranked;  // by distance, and those equal by id

  // A closer bound, if the candidates have one: their k-th upper end or a little more, as bisection
  // finds it, which counts vectors at a time and does not have to sort.
  HDRM_FN void narrow(std::int64_t k, T& bound, std::vector<T>& work) {
    const auto size = static_cast<std::int64_t>(candidates.size());
    if (size >= k) {
      T low = std::numeric_limits<T>::infinity(), high = -low;
      work.resize(size);
      for (std::int64_t j = 0; j < size; ++j) work[j] = candidates[j].upper;
      const T* upper = work.data();
#pragma omp simd reduction(min : low) reduction(max : high)
      for (std::int64_t j = 0; j < size; ++j) {
        low = smallest(upper[j], low);
        high = largest(upper[j], high);
      }
      for (int step = 0; step < kBisections; ++step) {
        const T middle = low + (high - low) / 2;
        int count = 0;
#pragma omp simd reduction(+ : count)
        for (std::int64_t j = 0; j < size; ++j) count += upper[j] <= middle ? 1 : 0;
        (count >= k ? high : low) = middle;
      }
      bound = smallest(bound, high);
    }
    // Without a branch, as half of them would be mispredicted.
    auto kept = candidates.begin();
    for (const Candidate& c : candidates) {
      *kept = c;
      kept += c.lower <= bound;
    }
    candidates.erase(kept, candidates.end());
  }
};

// The candidates' distances; the k nearest stay.
template <int kBytes, class T>
HDRM_FN void rank_candidates(const TopK<T>& t, Nearest<T>& user) {
  using Op = Distance<T, Metric::kDistance>;
  const Host<kBytes> team;
  const auto& candidates = user.candidates;
  for (std::size_t first = 0; first < candidates.size(); first += kBlock) {
    const auto count = static_cast<int>(std::min<std::size_t>(kBlock, candidates.size() - first));
    typename Op::State state[kBlock] = {};
    const T* rows[kBlock][2];
    for (int j = 0; j < count; ++j) {
      rows[j][0] = user.x;
      rows[j][1] = t.items + candidates[first + j].item * t.width;
      Op::template reduce<0>(team, rows[j], nullptr, t.width, state[j]);
    }
#pragma omp simd
    for (int j = 0; j < kBlock; ++j) Op::template solve<0>(t.space, state[j]);
    for (int j = 0; j < count; ++j) {
      Op::template reduce<1>(team, rows[j], nullptr, t.width, state[j]);
    }
#pragma omp simd
    for (int j = 0; j < kBlock; ++j) Op::template solve<1>(t.space, state[j]);
    for (int j = 0; j < count; ++j) {
      user.ranked.emplace_back(state[j].value, candidates[first + j].item);
    }
  }
  user.candidates.clear();
  const auto count = std::min<std::size_t>(t.k, user.ranked.size());
  const auto last = user.ranked.begin() + count;
  if (last != user.ranked.end()) std::nth_element(user.ranked.begin(), last, user.ranked.end());
  std::sort(user.ranked.begin(), last);
  user.ranked.resize(count);
}

// Functions of their own for each type, since levels are not made of templates.
#define HDRM_RANK(level, bytes, T) \
  level void rank(const TopK<T>& t, Nearest<T>& user) { rank_candidates<bytes>(t, user); }
HDRM_LEVELS(HDRM_RANK, float)
HDRM_LEVELS(HDRM_RANK, double)

// Users that share tiles: the same coordinates of all of them side by side.
template <int kBytes, class T>
struct Tile {
  int count = 0;
  T slack[kRows], bound[kRows];
  std::vector<T> coordinates;        // (width, kRows): x0 and −xs
  std::vector<std::uint8_t> hidden;  // per item, a bit for every user who must not get it
  Nearest<T> nearest[kRows];

  HDRM_FN void begin(const TopK<T>& t, std::int64_t first, std::int64_t last,
                     std::size_t patience) {
    constexpr T kError = 2 * std::numeric_limits<T>::epsilon();
    count = static_cast<int>(std::min<std::int64_t>(kRows, last - first));
    coordinates.assign(t.width * kRows, T(0));
    hidden.assign(t.num_items + Panels<T>::kItems, 0);
    std::fill(bound + count, bound + kRows, std::numeric_limits<T>::quiet_NaN());
    for (int r = 0; r < count; ++r) {
      const std::int64_t user = first + r;
      const T* x = t.users + user * t.width;
      for (int i = 1; i < t.width; ++i) coordinates[i * kRows + r] = -x[i];
      coordinates[r] = time_of<kBytes>(t.space, x, t.width);
      slack[r] = kError * t.width * coordinates[r];
      bound[r] = std::numeric_limits<T>::infinity();
      nearest[r].x = x;
      nearest[r].patience = patience;
      nearest[r].candidates.clear();
      nearest[r].ranked.clear();
      if (!t.rowptr) continue;
      for (std::int64_t e = t.rowptr[user]; e < t.rowptr[user + 1]; ++e) {
        hidden[t.col[e] - t.offset] |= static_cast<std::uint8_t>(1 << r);
      }
    }
  }

  // Makes candidates of the panel's items that are within the bounds.
  HDRM_FN void look(const TopK<T>& t, const Column<T>* panel, std::int64_t first_item,
                    std::size_t limit, std::vector<T>& work) {
    constexpr int kItems = Panels<T>::kItems;
    Column<T> scores[kRows];
    if (count == kRows) {
      multiply<kBytes, kRows>(coordinates.data(), panel, t.width, scores);
    } else {
      for (int r = 0; r < kRows; ++r) {
        scores[r] = {};
        if (r < count) multiply<kBytes, 1>(coordinates.data() + r, panel, t.width, scores + r);
      }
    }
    // A byte for every item and in it a bit for every user, as in `hidden`.
    const T* time = panel[0].of;
    std::uint8_t found[kItems] = {};
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const T* score = scores[r].of;
#pragma omp simd
      for (int lane = 0; lane < kItems; ++lane) {
        found[lane] |= score[lane] - slack[r] * time[lane] <= bound[r] ? 1 << r : 0;
      }
    }
    for (int half = 0; half < kItems; half += 8) {
      std::uint64_t bits, taken;
      std::memcpy(&bits, found + half, 8);
      if (bits == 0) continue;
      std::memcpy(&taken, hidden.data() + first_item + half, 8);
      for (bits &= ~taken; bits != 0; bits &= bits - 1) {
        const int place = std::countr_zero(bits), lane = half + place / 8, r = place % 8;
        Nearest<T>& user = nearest[r];
        const T s = scores[r].of[lane], error = slack[r] * time[lane];
        user.candidates.push_back({s - error, s + error, first_item + lane});
        if (user.candidates.size() < user.patience) continue;
        user.narrow(t.k, bound[r], work);
        if (user.candidates.size() > limit) rank(t, user);
        user.patience = std::max(user.patience, 2 * user.candidates.size());
      }
    }
  }
};

template <int kBytes, class T>
HDRM_FN void find_nearest(const TopK<T>& t, const Panels<T>& panels, std::int64_t begin,
                          std::int64_t end, T* distance, std::int64_t* index) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const std::int64_t patience = 2 * t.k + 32;
  const std::int64_t num_tiles = std::clamp<std::int64_t>(kMany / kRows / patience, 1, kTiles);
  const std::size_t limit = std::max<std::int64_t>(patience, kMany / kRows / num_tiles);
  std::vector<Tile<kBytes, T>> tiles(num_tiles);
  std::vector<T> work;
  for (std::int64_t first = begin; first < end; first += num_tiles * kRows) {
    const auto count = std::min(num_tiles, (end - first + kRows - 1) / kRows);
    for (int i = 0; i < count; ++i) tiles[i].begin(t, first + i * kRows, end, patience);
    for (std::int64_t start = 0; start < std::min<std::int64_t>(kStrides, panels.count); ++start) {
      for (std::int64_t p = start; p < panels.count; p += kStrides) {
        for (int i = 0; i < count; ++i) {
          tiles[i].look(t, panels[p], p * Panels<T>::kItems, limit, work);
        }
      }
    }
    for (std::int64_t u = first; u < std::min(end, first + num_tiles * kRows); ++u) {
      Tile<kBytes, T>& tile = tiles[(u - first) / kRows];
      const int r = static_cast<int>((u - first) % kRows);
      tile.nearest[r].narrow(t.k, tile.bound[r], work);
      rank(t, tile.nearest[r]);
      const auto& ranked = tile.nearest[r].ranked;
      for (std::int64_t j = 0; j < t.k; ++j) {
        const bool is_one = j < static_cast<std::int64_t>(ranked.size());
        distance[u * t.k + j] = is_one ? ranked[j].first : kInfinity;
        index[u * t.k + j] = is_one ? ranked[j].second : -1;
      }
    }
  }
}

#define HDRM_NEAREST(level, bytes, T)                                                             \
  level void pack(const TopK<T>& t, const Panels<T>& panels, std::int64_t begin,                  \
                  std::int64_t end) {                                                             \
    pack_panels<bytes>(t, panels, begin, end);                                                    \
  }                                                                                               \
  level void find(const TopK<T>& t, const Panels<T>& panels, std::int64_t begin, std::int64_t end, \
                  T* distance, std::int64_t* index) {                                             \
    find_nearest<bytes>(t, panels, begin, end, distance, index);                                  \
  }
HDRM_LEVELS(HDRM_NEAREST, float)
HDRM_LEVELS(HDRM_NEAREST, double)

}  // namespace

template <class T>
void topk(const cpu::Parallel& parallel, const TopK<T>& t, T* distance, std::int64_t* index) {
  constexpr int kItems = Panels<T>::kItems;
  const std::int64_t count = (t.num_items + kItems - 1) / kItems;
  const Panels<T> panels{count, t.width,
                         std::unique_ptr<Column<T>[], cpu::GiveBack>(static_cast<Column<T>*>(
                             cpu::take_memory(count * t.width * std::int64_t{sizeof(Column<T>)})))};
  parallel.loop(count, cpu::grain_rows(t.width * kItems),
                [&](std::int64_t begin, std::int64_t end) { pack(t, panels, begin, end); });
  parallel.loop(t.num_users, 1, [&](std::int64_t begin, std::int64_t end) {
    find(t, panels, begin, end, distance, index);
  });
}

template void topk(const cpu::Parallel&, const TopK<float>&, float*, std::int64_t*);
template void topk(const cpu::Parallel&, const TopK<double>&, double*, std::int64_t*);

}  // namespace hdrm
