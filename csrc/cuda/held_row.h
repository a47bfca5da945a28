// Rows in registers: a thread holds four elements of a row at a time, and moves them as one access
// of 16 bytes (8 in 16-bit tables, two of 16 in those of double) where width and addresses allow.
//
// To a row op such a row is an array of 1 + kHeld: the time coordinate, which all threads of a team
// have, then the thread's own elements. Element 0 of the row is among the leader's own too; there
// it is dropped, like what lies beyond the width.
#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/team.h"
#include "rows/storage.h"
#include "rows/tables.h"

namespace hdrm::cuda {

inline constexpr int kHeld = 4;          // elements of a row that a thread holds
inline constexpr int kRowThreads = 128;  // in a block

// Four elements of a table as one access, or two for double.
template <class S>
struct Quad {
  using Vector = std::conditional_t<sizeof(S) == 2, uint2, uint4>;
  static constexpr int kAccesses = kHeld * sizeof(S) / sizeof(Vector);
  S element[kHeld];

  static __device__ __forceinline__ Quad load(const S* from) {
    Accesses moved;
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) moved.vector[a] = reinterpret_cast<const Vector*>(from)[a];
    return std::bit_cast<Quad>(moved);
  }
  __device__ __forceinline__ void store(S* to) const {
    const auto moved = std::bit_cast<Accesses>(*this);
    // __stwb is a plain store that nvcc does not take apart, as it does some assignments.
#pragma unroll
    for (int a = 0; a < kAccesses; ++a) __stwb(reinterpret_cast<Vector*>(to) + a, moved.vector[a]);
  }

 private:
  struct Accesses {
    Vector vector[kAccesses];
  };
};

// Whether rows of this width at this address can be read and written as quads.
template <class S>
bool takes_quads(const S* data, int width) {
  return width % kHeld == 0 &&
         reinterpret_cast<std::uintptr_t>(data) % sizeof(typename Quad<S>::Vector) == 0;
}

template <class S, class T>
__device__ __forceinline__ S stored_as(T value) {
  S stored;
  stored = static_cast<Arithmetic<S>>(value);
  return stored;
}

// Calls f(S()) for the type that a table's elements have.
template <class Native, class F>
__device__ __forceinline__ void by_storage(Storage storage, F f) {
  if constexpr (std::is_same_v<Native, float>) {
    if (storage == Storage::kBfloat16) return f(Bfloat16());
    if (storage == Storage::kHalf) return f(Half());
  }
  f(Native());
}

// Where a thread's elements stand in a row.
struct Place {
  int first, step, width;
  bool quads;  // step is 1, and quads can be moved

  __device__ __forceinline__ int coordinate(int j) const { return first + step * j; }
  __device__ __forceinline__ bool spatial(int j) const {
    return 0 < coordinate(j) && coordinate(j) < width;
  }

  // own ← the elements, 0 beyond the width.
  template <class S, class T>
  __device__ __forceinline__ void load(const S* row, T* own) const {
    if (quads) {
      Quad<S> quad{};
      if (first < width) quad = Quad<S>::load(row + first);
#pragma unroll
      for (int j = 0; j < kHeld; ++j) own[j] = static_cast<T>(quad.element[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        own[j] = coordinate(j) < width ? static_cast<T>(row[coordinate(j)]) : T(0);
      }
    }
  }

  template <class S, class T>
  __device__ __forceinline__ void store(S* row, const T* own) const {
    if (quads) {
      Quad<S> quad;
#pragma unroll
      for (int j = 0; j < kHeld; ++j) quad.element[j] = stored_as<S>(own[j]);
      if (first < width) quad.store(row + first);
    } else {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        if (coordinate(j) < width) row[coordinate(j)] = stored_as<S>(own[j]);
      }
    }
  }
};

// A team of kTeam neighbouring threads that hold a row whole, four elements each.
template <int kTeam>
class Holders {
 public:
  static constexpr int kWidest = kTeam * kHeld;

  __device__ Holders(int width, bool quads)
      : thread_(threadIdx.x % kTeam),
        place_{quads ? kHeld * thread_ : thread_, quads ? 1 : kTeam, width, quads},
        spatial_(0) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) spatial_ |= unsigned(place_.spatial(j)) << j;
  }

  template <class T, class F>
  __device__ __forceinline__ T sum(int, F f) const {
    T total = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const T value = f(1 + j);
      total += spatial_ >> j & 1 ? value : T(0);
    }
    if constexpr (kTeam <= 32) {
      return lanes_sum<kTeam>(total);
    } else {
      return block_sum(total);
    }
  }
  template <class T, class F>
  __device__ __forceinline__ T each_sum(int n, F f) const {
    return sum<T>(n, f);
  }
  template <class F>
  __device__ __forceinline__ void each(int, F f) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) f(1 + j);
  }
  __device__ __forceinline__ bool leads() const { return thread_ == 0; }

  template <class S, class T>
  __device__ __forceinline__ void load(const S* row, T* held) const {
    held[0] = static_cast<T>(row[0]);
    place_.load(row, held + 1);
  }
  template <class S, class T>
  __device__ __forceinline__ void store(S* row, T* held) const {
    if (leads()) held[1] = held[0];
    place_.store(row, held + 1);
  }

 private:
  int thread_;
  Place place_;
  unsigned spatial_;
};

// The block on a row of any width, which it sweeps over again for every sum. `rows` brings what a
// thread holds: rows.load(place), and after what may write, rows.store(place). Time coordinates are
// rows' own business.
template <class Rows>
struct Sweepers {
  Rows& rows;
  int width;
  bool quads;

  template <class T, class F>
  __device__ __forceinline__ T sum(int, F f) const {
    return block_sum(sweep<T, false>(f));
  }
  template <class T, class F>
  __device__ __forceinline__ T each_sum(int, F f) const {
    return block_sum(sweep<T, true>(f));
  }
  template <class F>
  __device__ __forceinline__ void each(int, F f) const {
    sweep<int, true>([&](int i) {
      f(i);
      return 0;
    });
  }
  __device__ __forceinline__ bool leads() const { return threadIdx.x == 0; }

 private:
  template <class T, bool kWrites, class F>
  __device__ __forceinline__ T sweep(F f) const {
    T total = 0;
    for (int start = 0; start < width; start += kHeld * kRowThreads) {
      const int thread = static_cast<int>(threadIdx.x);
      const Place place{start + (quads ? kHeld * thread : thread), quads ? 1 : kRowThreads, width,
                        quads};
      rows.load(place);
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const T value = f(1 + j);
        total += place.spatial(j) ? value : T(0);
      }
      if constexpr (kWrites) rows.store(place);
    }
    return total;
  }
};

// Calls run(std::integral_constant) with the smallest team that holds a row of the width; false if
// none does.
template <class Run>
bool with_holders(int width, Run run) {
  const auto fits = [&]<int kTeam>(std::integral_constant<int, kTeam> team) {
    if (width > Holders<kTeam>::kWidest) return false;
    run(team);
    return true;
  };
  return fits(std::integral_constant<int, 16>()) || fits(std::integral_constant<int, 32>()) ||
         fits(std::integral_constant<int, kRowThreads>());
}

}  // namespace hdrm::cuda
