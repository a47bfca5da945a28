// topk: the k nearest items of every user, exact, in memory that does not grow with users × items.
//
// Distance grows with s = x0·y0 − K − xs·ys. With the heights p = x0 − r and q = y0 − r it is
//   s = m − xs·ys,    m = r·p + x0·q ≥ |xs||ys|,
// a matrix product that is off by no more than error·m, also near the origin, where s is small.
//
// 1. Items fall into groups, many more than k. The k-th smallest of the groups' least upper ends
//    (1 + error)·m − xs·ys bounds the k-th nearest; few of the k nearest share a group, so that it
//    is close to their largest.
// 2. The same product again. An item whose lower end (1 − error)·m − xs·ys is within the bound is
//    listed: k and a few for each user, in any order.
// 3. What is listed gets its distance, and is sorted by distance and id: no order but that is left.
// 4. For a user whose list overflows, since many items are as good as equally far, all items are
//    sorted, as many at a time as a list holds, behind the k nearest so far: slow, and right.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "cuda/held_row.h"
#include "ops/ranking.h"
#include "rows/ranking.h"

namespace hdrm {
namespace {

using namespace cuda;

constexpr int kSide = 16, kThreads = kSide * kSide;  // threads along either side of a tile
constexpr int kSlice = 16;                           // columns that are multiplied at a time
constexpr int kRankThreads = 128;
constexpr int kBlocksWanted = 1024;  // several for each multiprocessor
constexpr int kGroups = 8;           // for each of the k nearest, or more
// Of groups and lists of the users that are ranked at a time: 2²³, less where tests ask for it.
constexpr std::int64_t kEntries = std::int64_t(kMaxBlocks) << 8;
constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();  // behind all items

// A tile of the product. A thread has some users, in fours that are 4·kSide apart, and four items.
template <class T>
inline constexpr int kOwnUsers = 32 / static_cast<int>(sizeof(T));
inline constexpr int kOwnItems = kHeld;
template <class T>
inline constexpr int kUsers = kSide * kOwnUsers<T>;
inline constexpr int kItems = kSide * kOwnItems;

// Users that are ranked at a time, and what is found out about them.
template <class T>
struct Search {
  TopK<T> t;
  T error;
  bool quads;
  const T *user_heights, *item_heights;
  T* least;              // (users, groups): the least upper end of each group
  T* bounds;             // (users,)
  int* counts;           // (users,): how many items are within, also beyond what a list holds
  std::int64_t* listed;  // (users, capacity): ids …
  T* distances;          // … and distances
  int capacity;          // a power of two
};

template <class T>
__global__ void __launch_bounds__(kRankThreads)
    point_heights(const T* points, std::int64_t rows, int width, const Space<T> space, T* out) {
  constexpr int kWarps = kRankThreads / 32;
  for (std::int64_t row = std::int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; row < rows;
       row += std::int64_t(gridDim.x) * kWarps) {
    const T value = height(Warp(), space, points + row * width, width);
    if (Warp().leads()) out[row] = value;
  }
}

// Products of a tile of users and items ----------------------------------------------------------

// Four rows of a tile in one of its columns.
template <class T>
struct alignas(16) Four {
  T of[kHeld];
};

// tile[column][row / 4] ← `rows` rows of a table from `first` on, kSlice columns from `start` on: 0
// in the place of times and outside.
template <int rows, class T, class Tile>
__device__ __forceinline__ void load_slice(const T* table, std::int64_t first, std::int64_t end,
                                           int start, int width, bool quads, Tile& tile) {
  constexpr int kQuads = kSlice / kHeld;  // of a row
#pragma unroll
  for (int step = 0; step < rows * kQuads / kThreads; ++step) {
    const int i = step * kThreads + static_cast<int>(threadIdx.x), row = i / kQuads;
    const int column = i % kQuads * kHeld;
    const std::int64_t at = first + row;
    T own[kHeld];
    Place{start + column, 1, at < end ? width : 0, quads}.load(table + at * width, own);
    if (start + column == 0) own[0] = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) tile[column + j][row / kHeld].of[row % kHeld] = own[j];
  }
}

// For each block of users and each of `parts` ranges of items, of `num_tiles` tiles: the least
// upper ends of the range's kItems groups, or if kLists the items within the users' bounds.
template <class T, bool kLists>
__global__ void __launch_bounds__(kThreads, 2)
    multiply(const Search<T> s, std::int64_t parts, std::int64_t num_tiles) {
  constexpr int kPad = 1;  // so that columns begin in other banks
  HDRM_SHARED_ARRAY(Four<T>, user_tile, [kSlice][kUsers<T> / kHeld + kPad]);
  HDRM_SHARED_ARRAY(Four<T>, item_tile, [kSlice][kItems / kHeld + kPad]);
  HDRM_SHARED_ARRAY(unsigned, seen, [kUsers<T>][kItems / 32]);  // a bit for each item of the tile
  const TopK<T>& t = s.t;
  const int thread = static_cast<int>(threadIdx.x), across = thread % kSide, down = thread / kSide;
  const T infinity = std::numeric_limits<T>::infinity();
  const std::int64_t user_blocks = (t.num_users + kUsers<T> - 1) / kUsers<T>;
  for (std::int64_t job = blockIdx.x; job < user_blocks * parts; job += gridDim.x) {
    const std::int64_t first_user = job % user_blocks * kUsers<T>, part = job / user_blocks;
    const std::int64_t first_item = part * num_tiles * kItems;
    // Where a thread stands in the row of the seen items of user `thread`.
    std::int64_t at = 0, seen_end = 0;
    if (t.rowptr && thread < kUsers<T> && first_user + thread < t.num_users) {
      const std::int64_t begin = t.rowptr[first_user + thread];
      seen_end = t.rowptr[first_user + thread + 1];
      at = begin + seen_below(t.col + begin, seen_end - begin, t.offset, first_item);
    }
    const auto user_of = [&](int i) -> std::int64_t {
      return first_user + i / kHeld * (kSide * kHeld) + down * kHeld + i % kHeld;
    };
    T best[kOwnUsers<T>][kOwnItems];
#pragma unroll
    for (int i = 0; i < kOwnUsers<T>; ++i) {
#pragma unroll
      for (int j = 0; j < kOwnItems; ++j) best[i][j] = infinity;
    }
    const std::int64_t last_item = std::min(first_item + num_tiles * kItems, t.num_items);
    for (std::int64_t base = first_item; base < last_item; base += kItems) {
      T dots[kOwnUsers<T>][kOwnItems] = {};
      for (int start = 0; start < t.width; start += kSlice) {
        __syncthreads();  // before what others still read is overwritten
        load_slice<kUsers<T>>(t.users, first_user, t.num_users, start, t.width, s.quads, user_tile);
        load_slice<kItems>(t.items, base, t.num_items, start, t.width, s.quads, item_tile);
        if (start == 0 && t.rowptr && thread < kUsers<T>) {
          unsigned bits[kItems / 32] = {};
          for (; at < seen_end && t.col[at] - t.offset < base + kItems; ++at) {
            const int item = static_cast<int>(t.col[at] - t.offset - base);
#pragma unroll
            for (int word = 0; word < kItems / 32; ++word) {
              bits[word] |= item / 32 == word ? 1u << item % 32 : 0u;
            }
          }
#pragma unroll
          for (int word = 0; word < kItems / 32; ++word) seen[thread][word] = bits[word];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kSlice; ++k) {
          T x[kOwnUsers<T>];
#pragma unroll
          for (int i = 0; i < kOwnUsers<T>; i += kHeld) {
            const auto four = Quad<T>::load(user_tile[k][i * kSide / kHeld + down].of);
#pragma unroll
            for (int j = 0; j < kHeld; ++j) x[i + j] = four.element[j];
          }
          const auto y = Quad<T>::load(item_tile[k][across].of);
#pragma unroll
          for (int i = 0; i < kOwnUsers<T>; ++i) {
#pragma unroll
            for (int j = 0; j < kOwnItems; ++j) dots[i][j] += x[i] * y.element[j];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kOwnUsers<T>; ++i) {
        const std::int64_t user = user_of(i);
        if (user >= t.num_users) continue;
        const T p = s.user_heights[user], r = t.space.r, bound = kLists ? s.bounds[user] : T(0);
#pragma unroll
        for (int j = 0; j < kOwnItems; ++j) {
          const int column = across * kOwnItems + j;
          const std::int64_t item = base + column;
          if (item >= t.num_items) continue;
          const T m = r * p + (r + p) * s.item_heights[item];
          const T end = (kLists ? 1 - s.error : 1 + s.error) * m - dots[i][j];
          if (!(end <= (kLists ? bound : best[i][j]))) continue;
          if (t.rowptr && seen[user - first_user][column / 32] >> column % 32 & 1) continue;
          if constexpr (kLists) {
            const int place = atomicAdd(s.counts + user, 1);
            if (place < s.capacity) s.listed[user * s.capacity + place] = item;
          } else {
            best[i][j] = end;
          }
        }
      }
    }
    if constexpr (!kLists) {
#pragma unroll
      for (int i = 0; i < kOwnUsers<T>; ++i) {
        if (user_of(i) >= t.num_users) continue;
        Quad<T> ends;
#pragma unroll
        for (int j = 0; j < kOwnItems; ++j) ends.element[j] = best[i][j];
        ends.store(s.least + (user_of(i) * parts + part) * kItems + across * kOwnItems);
      }
    }
  }
}

// Bounds -----------------------------------------------------------------------------------------

// bound ← the k-th smallest of each user's `groups` ≥ k numbers, infinity where fewer groups have
// an item; count ← 0. That number's bits, ordered as numbers are, are found from the highest on.
template <class T>
__global__ void __launch_bounds__(kRankThreads)
    find_bounds(const Search<T> s, std::int64_t groups) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
  for (std::int64_t user = blockIdx.x; user < s.t.num_users; user += gridDim.x) {
    const T* ends = s.least + user * groups;
    Bits found = 0;
    for (Bits bit = kSign; bit != 0; bit >>= 1) {
      int smaller = 0;
      for (std::int64_t i = threadIdx.x; i < groups; i += kRankThreads) {
        const Bits bits = std::bit_cast<Bits>(ends[i]);
        smaller += (bits & kSign ? ~bits : bits | kSign) < (found | bit) ? 1 : 0;
      }
      if (block_sum(smaller) < s.t.k) found |= bit;
    }
    if (threadIdx.x == 0) {
      s.bounds[user] = std::bit_cast<T>(found & kSign ? found & ~kSign : ~found);
      s.counts[user] = 0;
    }
  }
}

// Distances --------------------------------------------------------------------------------------

// Sorts by distance and id, by the block. `size` is a power of two.
template <class T>
__device__ void bitonic_sort(T* distances, std::int64_t* ids, int size) {
  for (int run = 2; run <= size; run *= 2) {
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kRankThreads) {
        const int a = 2 * i - (i & (stride - 1)), b = a + stride;
        const T da = distances[a], db = distances[b];
        const std::int64_t ia = ids[a], ib = ids[b];
        const bool behind = da > db || (da == db && ia > ib), ascending = (a & run) == 0;
        if (behind == ascending) {
          distances[a] = db, distances[b] = da;
          ids[a] = ib, ids[b] = ia;
        }
      }
      __syncthreads();
    }
  }
}

// distance, index ← the k nearest of what is listed, or of all where the list has overflowed.
template <class T>
__global__ void __launch_bounds__(kRankThreads, 4)
    rank_listed(const Search<T> s, T* distance, std::int64_t* index) {
  const TopK<T>& t = s.t;
  const T infinity = std::numeric_limits<T>::infinity();
  const Warp warp;
  for (std::int64_t user = blockIdx.x; user < t.num_users; user += gridDim.x) {
    T* distances = s.distances + user * s.capacity;
    std::int64_t* ids = s.listed + user * s.capacity;
    const int count = s.counts[user];
    const bool all = count > s.capacity;
    const std::int64_t candidates = all ? t.num_items : count;
    std::int64_t kept = 0, done = 0;
    do {  // places before `kept` hold the k nearest so far
      for (std::int64_t place = kept + threadIdx.x / 32; place < s.capacity;
           place += kRankThreads / 32) {
        std::int64_t item = done + place - kept;
        bool exists = item < candidates;
        if (exists && !all) item = ids[place];
        if (exists && all && t.rowptr) {
          const std::int64_t begin = t.rowptr[user], size = t.rowptr[user + 1] - begin;
          const std::int64_t below = seen_below(t.col + begin, size, t.offset, item);
          exists = below == size || t.col[begin + below] - t.offset != item;
        }
        T value = infinity;
        if (exists) {
          value = point_distance(warp, t.space, t.users + user * t.width, t.items + item * t.width,
                                 t.width);
        }
        exists = exists && value == value;
        if (warp.leads()) {
          distances[place] = exists ? value : infinity;
          ids[place] = exists ? item : kNone;
        }
      }
      __syncthreads();
      bitonic_sort(distances, ids, s.capacity);
      done += s.capacity - kept;
      kept = t.k;
    } while (done < candidates);
    for (std::int64_t j = threadIdx.x; j < t.k; j += kRankThreads) {
      distance[user * t.k + j] = distances[j];
      index[user * t.k + j] = ids[j] == kNone ? -1 : ids[j];
    }
  }
}

}  // namespace

template <class T>
void topk(const Stream& stream, const TopK<T>& t, T* distance, std::int64_t* index) {
  if (t.num_users == 0) return;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  const auto heights = [&](const T* points, std::int64_t rows) -> const T* {
    T* out = scratch<T>(stream, rows);
    HDRM_LAUNCH_AS("point_heights", (point_heights<T>), blocks_for(rows, kRankThreads / 32),
                   kRankThreads, 0, handle, points, rows, t.width, t.space, out);
    return out;
  };
  const auto capacity = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(2 * t.k + 32)));  // a few more than k are within
  const std::int64_t of_a_user = kGroups * (t.k + kItems) + capacity;
  const std::int64_t at_once = std::min(
      t.num_users, std::max<std::int64_t>(1, kEntries / of_a_user / kUsers<T>) * kUsers<T>);
  // Ranges of items: tiles of each, and how many there are, which is `wanted` or fewer.
  const std::int64_t tiles = (t.num_items + kItems - 1) / kItems;
  const auto tiles_of = [&](std::int64_t wanted) {
    return (tiles + std::min(tiles, wanted) - 1) / std::min(tiles, wanted);
  };
  const std::int64_t user_blocks = (at_once + kUsers<T> - 1) / kUsers<T>;
  // Ranges come out half as many as wanted or more, and a tile each where there are few items, so
  // that there are k groups or more.
  const std::int64_t busy = (kBlocksWanted + user_blocks - 1) / user_blocks;
  const std::int64_t enough = std::max(busy, (kGroups * t.k + kItems - 1) / kItems);
  const std::int64_t bound_tiles = tiles_of(enough), list_tiles = tiles_of(busy);
  const std::int64_t bound_parts = (tiles + bound_tiles - 1) / bound_tiles;
  const std::int64_t list_parts = (tiles + list_tiles - 1) / list_tiles;

  Search<T> s{t, (2 * t.width + 8) * std::numeric_limits<T>::epsilon(),
              takes_quads(t.users, t.width) && takes_quads(t.items, t.width),
              heights(t.users, t.num_users), heights(t.items, t.num_items),
              scratch<T>(stream, at_once * bound_parts * kItems), scratch<T>(stream, at_once),
              scratch<int>(stream, at_once), scratch<std::int64_t>(stream, at_once * capacity),
              scratch<T>(stream, at_once * capacity), static_cast<int>(capacity)};
  for (std::int64_t first = 0; first < t.num_users; first += at_once) {
    s.t.num_users = std::min(at_once, t.num_users - first);
    const std::int64_t blocks = (s.t.num_users + kUsers<T> - 1) / kUsers<T>;
    HDRM_LAUNCH_AS("multiply", (multiply<T, false>), blocks_for(blocks * bound_parts, 1), kThreads,
                   0, handle, s, bound_parts, bound_tiles);
    HDRM_LAUNCH_AS("find_bounds", (find_bounds<T>), blocks_for(s.t.num_users, 1), kRankThreads, 0,
                   handle, s, bound_parts * kItems);
    HDRM_LAUNCH_AS("multiply", (multiply<T, true>), blocks_for(blocks * list_parts, 1), kThreads,
                   0, handle, s, list_parts, list_tiles);
    HDRM_LAUNCH_AS("rank_listed", (rank_listed<T>), blocks_for(s.t.num_users, 1), kRankThreads, 0,
                   handle, s, distance + first * t.k, index + first * t.k);
    s.t.users += s.t.num_users * t.width;
    s.user_heights += s.t.num_users;
    if (t.rowptr) s.t.rowptr += s.t.num_users;
  }
}

template void topk(const Stream&, const TopK<float>&, float*, std::int64_t*);
template void topk(const Stream&, const TopK<double>&, double*, std::int64_t*);

}  // namespace hdrm
