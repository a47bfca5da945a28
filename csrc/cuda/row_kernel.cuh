// The loop over rows that every row op runs in on a device.
//
// A row of up to 512 elements is read once, 16 bytes at a time, and held in the registers of a
// team: a half warp, a warp or a block of four warps, four elements to a thread. A wider row stays
// in memory, a block goes over it. Either way a row belongs to one team, and the order of its sums
// is fixed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/row_kernels.h"
#include "cuda/team.h"
#include "rows/storage.h"
#include "rows/wide.h"

namespace hdrm::cuda {

inline constexpr int kHeld = 4;          // elements of a row that a thread holds
inline constexpr int kRowThreads = 128;  // in a block …
inline constexpr int kRowBlocks = 3;     // … of which a multiprocessor has registers for so many
inline constexpr int kMaxBlocks = 1 << 15;  // rows beyond come round by the grid's stride

// Four elements of a table as one access, or two for double.
template <class S>
struct alignas(sizeof(S) == 8 ? 16 : 4 * sizeof(S)) [[gnu::may_alias]] Quad {
  S element[kHeld];
};

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

// A team of kTeam neighbouring threads, each with four elements of every row. To a row op a row is
// an array of 1 + kHeld: the time coordinate, which all threads have, then the thread's own. The
// leader's element 1 is the time coordinate again, and dropped like elements beyond the width.
template <int kTeam>
class Holders {
 public:
  __device__ Holders(int width, bool quads)
      : thread_(threadIdx.x % kTeam), width_(width), quads_(quads), spatial_(0) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const int i = coordinate(j);
      if (0 < i && i < width) spatial_ |= 1 << j;
    }
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

  template <class F>
  __device__ __forceinline__ void each(int, F f) const {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) f(1 + j);
  }

  __device__ __forceinline__ bool leads() const { return thread_ == 0; }

  // Native is what tables of Storage::kNative hold.
  template <class Native, class T>
  __device__ __forceinline__ void load(const Table& table, std::int64_t row, T* held) const {
    by_storage<Native>(table.storage, [&](auto type) {
      using S = decltype(type);
      const S* from = static_cast<const S*>(table.data) + row * table.stride;
      held[0] = static_cast<T>(from[0]);
      if (table.stride == 1) return zero(held);
      if (quads_) {
        if (coordinate(0) >= width_) return zero(held);
        const auto quad = *reinterpret_cast<const Quad<S>*>(from + coordinate(0));
#pragma unroll
        for (int j = 0; j < kHeld; ++j) held[1 + j] = static_cast<T>(quad.element[j]);
      } else {
#pragma unroll
        for (int j = 0; j < kHeld; ++j) {
          held[1 + j] = coordinate(j) < width_ ? static_cast<T>(from[coordinate(j)]) : T(0);
        }
      }
    });
  }

  template <class Native, class T>
  __device__ __forceinline__ void store(const Table& table, std::int64_t row, T* held) const {
    by_storage<Native>(table.storage, [&](auto type) {
      using S = decltype(type);
      S* to = static_cast<S*>(table.data) + row * table.stride;
      if (leads()) held[1] = held[0];
      if (table.stride == 1) {
        if (leads()) to[0] = stored_as<S>(held[0]);
      } else if (quads_) {
        Quad<S> quad;
#pragma unroll
        for (int j = 0; j < kHeld; ++j) quad.element[j] = stored_as<S>(held[1 + j]);
        if (coordinate(0) < width_) *reinterpret_cast<Quad<S>*>(to + coordinate(0)) = quad;
      } else {
#pragma unroll
        for (int j = 0; j < kHeld; ++j) {
          if (coordinate(j) < width_) to[coordinate(j)] = stored_as<S>(held[1 + j]);
        }
      }
    });
  }

 private:
  // Where the thread's element j stands in the row.
  __device__ __forceinline__ int coordinate(int j) const {
    return quads_ ? kHeld * thread_ + j : thread_ + kTeam * j;
  }

  template <class T>
  static __device__ __forceinline__ void zero(T* held) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j) held[1 + j] = 0;
  }

  int thread_, width_;
  bool quads_;  // rows are read and written as quads: their width and addresses allow it
  unsigned spatial_;
};

// A row in memory, read as T and rounded to what is stored where it is written.
template <class T, class Native>
struct MemoryRow {
  void* data;
  Storage storage;

  __device__ MemoryRow(const Table& table, std::int64_t row) : storage(table.storage) {
    by_storage<Native>(storage, [&](auto type) {
      data = static_cast<decltype(type)*>(table.data) + row * table.stride;
    });
  }
};

template <class T, class Native>
struct ReadRow : MemoryRow<T, Native> {
  using MemoryRow<T, Native>::MemoryRow;
  __device__ __forceinline__ T operator[](int i) const {
    T value;
    by_storage<Native>(this->storage, [&](auto type) {
      value = static_cast<T>(static_cast<const decltype(type)*>(this->data)[i]);
    });
    return value;
  }
};

template <class T, class Native>
struct WrittenRow : MemoryRow<T, Native> {
  using MemoryRow<T, Native>::MemoryRow;
  struct Element {
    const WrittenRow& row;
    int i;
    __device__ __forceinline__ T operator=(T value) const {
      by_storage<Native>(row.storage, [&](auto type) {
        using S = decltype(type);
        static_cast<S*>(row.data)[i] = stored_as<S>(value);
      });
      return value;
    }
  };
  __device__ __forceinline__ Element operator[](int i) const { return {*this, i}; }
};

template <class Op, int pass, class T, class Team, class In, class Out>
__device__ __forceinline__ void run_passes(const Team& team, const Space<T>& space, In in, Out out,
                                           int width, typename Op::State& state) {
  if constexpr (pass < Op::kPasses) {
    Op::template reduce<pass>(team, in, out, width, state);
    Op::template solve<pass>(space, state);
    run_passes<Op, pass + 1>(team, space, in, out, width, state);
  } else {
    Op::store(team, space, in, out, width, state);
  }
}

template <class Op, class T, class Native, int kTeam>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    held_rows(const RowArguments args, const Space<T> space, std::int64_t rows, bool quads) {
  constexpr int kTeams = kRowThreads / kTeam;
  const Holders<kTeam> team(args.width, quads);
  // All teams go round as often as the first, since lanes of two teams meet in one warp: a team
  // without a row computes the last and keeps it to itself.
  for (std::int64_t first = std::int64_t(blockIdx.x) * kTeams; first < rows;
       first += std::int64_t(gridDim.x) * kTeams) {
    const std::int64_t own = first + threadIdx.x / kTeam, row = own < rows ? own : rows - 1;
    T held_in[Op::kIn][1 + kHeld], held_out[Op::kOut][1 + kHeld];
    const T* in[Op::kIn];
    T* out[Op::kOut];
#pragma unroll
    for (int k = 0; k < Op::kIn; ++k) {
      team.template load<Native>(args.in[k], row, held_in[k]);
      in[k] = held_in[k];
    }
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) out[k] = held_out[k];
    typename Op::State state{};
    run_passes<Op, 0>(team, space, in, out, args.width, state);
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) {
      if (own < rows) team.template store<Native>(args.out[k], row, held_out[k]);
    }
  }
}

template <class Op, class T, class Native>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    memory_rows(const RowArguments args, const Space<T> space, std::int64_t rows) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const auto run = [&]<int... kIn, int... kOut>(std::integer_sequence<int, kIn...>,
                                                  std::integer_sequence<int, kOut...>) {
      const ReadRow<T, Native> in[]{{args.in[kIn], row}...};
      const WrittenRow<T, Native> out[]{{args.out[kOut], row}...};
      typename Op::State state{};
      run_passes<Op, 0>(Block(), space, in, out, args.width, state);
    };
    run(std::make_integer_sequence<int, Op::kIn>(), std::make_integer_sequence<int, Op::kOut>());
  }
}

// Whether every row of a table can be read and written as quads.
template <class Native>
bool takes_quads(const Table& table, int width) {
  const bool native = table.storage == Storage::kNative;
  const std::uintptr_t size = native ? sizeof(Native) : 2;
  const std::uintptr_t alignment = std::min<std::uintptr_t>(16, kHeld * size);
  return table.stride == 1 ||
         (width % kHeld == 0 && reinterpret_cast<std::uintptr_t>(table.data) % alignment == 0);
}

template <template <class> class OpOf, class Native>
void launch_rows(const char* name, const RowArguments& args, const Space<Native>& native,
                 std::int64_t rows, void* stream_) {
  using T = OpArithmetic<OpOf, Native>;
  using Op = OpOf<T>;
  if (rows == 0) return;
  const Space<T> space = native.template as<T>();
  const auto stream = static_cast<cudaStream_t>(stream_);
  const auto blocks = [&](int teams) {
    return static_cast<unsigned>(std::min<std::int64_t>(kMaxBlocks, (rows + teams - 1) / teams));
  };
  bool quads = true;
  for (int k = 0; k < Op::kIn; ++k) quads &= takes_quads<Native>(args.in[k], args.width);
  for (int k = 0; k < Op::kOut; ++k) quads &= takes_quads<Native>(args.out[k], args.width);
  const auto hold = [&]<int kTeam>(std::integral_constant<int, kTeam>) {
    HDRM_LAUNCH_AS(name, (held_rows<Op, T, Native, kTeam>), blocks(kRowThreads / kTeam),
                   kRowThreads, 0, stream, args, space, rows, quads);
  };
  if (args.width <= 16 * kHeld) return hold(std::integral_constant<int, 16>());
  if (args.width <= 32 * kHeld) return hold(std::integral_constant<int, 32>());
  if (args.width <= kRowThreads * kHeld) return hold(std::integral_constant<int, kRowThreads>());
  HDRM_LAUNCH_AS(name, (memory_rows<Op, T, Native>), blocks(1), kRowThreads, 0, stream, args, space,
                 rows);
}

// Defines `const RowKernel name` from an op of T.
#define HDRM_ROW_KERNEL(name, ...)                                                             \
  template <class T>                                                                           \
  using name##_op = __VA_ARGS__;                                                               \
  template <class Native>                                                                      \
  static void launch_##name(const RowArguments& args, const Space<Native>& space,              \
                            std::int64_t rows, void* stream) {                                 \
    launch_rows<name##_op, Native>(#name, args, space, rows, stream);                          \
  }                                                                                            \
  extern const RowKernel name = {launch_##name<float>, launch_##name<double>,                  \
                                 name##_op<float>::kIn, name##_op<float>::kOut};

}  // namespace hdrm::cuda
