// The loop over rows that every row op runs in on a device.
//
// A row of up to 512 elements is read once and held in the registers of a team: a half warp, a warp
// or a block of four warps. A block sweeps over a wider row again and again. Either way a row
// belongs to one team, and the order of its sums is fixed.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device.h"
#include "cuda/held_row.h"
#include "cuda/row_kernels.h"
#include "rows/wide.h"

namespace hdrm::cuda {

inline constexpr int kRowBlocks = 3;  // blocks that a multiprocessor has registers for, at least

// Calls f with a table's row; Native is what tables of Storage::kNative hold.
template <class Native, class F>
__device__ __forceinline__ void with_row(const Table& table, std::int64_t row, F f) {
  by_storage<Native>(table.storage, [&](auto type) {
    f(static_cast<decltype(type)*>(table.data) + row * table.stride);
  });
}

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

// What a thread holds of an op's rows.
template <class Op, class T>
struct HeldRows {
  T in[Op::kIn][1 + kHeld], out[Op::kOut][1 + kHeld];

  template <class Team>
  __device__ __forceinline__ void run(const Team& team, const Space<T>& space, int width) {
    const T* in_rows[Op::kIn];
    T* out_rows[Op::kOut];
#pragma unroll
    for (int k = 0; k < Op::kIn; ++k) in_rows[k] = in[k];
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) out_rows[k] = out[k];
    typename Op::State state{};
    run_passes<Op, 0>(team, space, in_rows, out_rows, width, state);
  }
};

template <class Op, class T, class Native, int kTeam>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    held_rows(const RowArguments args, const Space<T> space, std::int64_t rows, bool quads) {
  constexpr int kTeams = kRowThreads / kTeam;
  const Holders<kTeam> team(args.width, quads);
  // All teams go round as often as the first, since lanes of two teams meet in one warp: a team
  // without a row computes with zeros.
  for (std::int64_t first = std::int64_t(blockIdx.x) * kTeams; first < rows;
       first += std::int64_t(gridDim.x) * kTeams) {
    const std::int64_t row = first + threadIdx.x / kTeam;
    HeldRows<Op, T> held{};
#pragma unroll
    for (int k = 0; k < Op::kIn; ++k) {
      if (row >= rows) break;
      with_row<Native>(args.in[k], row, [&](const auto* from) {
        if (args.in[k].stride == 1) {
          held.in[k][0] = static_cast<T>(from[0]);
        } else {
          team.load(from, held.in[k]);
        }
      });
    }
    held.run(team, space, args.width);
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) {
      if (row >= rows) break;
      with_row<Native>(args.out[k], row, [&](auto* to) {
        if (args.out[k].stride == 1) {
          if (team.leads()) to[0] = stored_as<std::remove_pointer_t<decltype(to)>>(held.out[k][0]);
        } else {
          team.store(to, held.out[k]);
        }
      });
    }
  }
}

// Rows of an op that a block sweeps over.
template <class Op, class T, class Native>
struct SweptRows : HeldRows<Op, T> {
  const RowArguments& args;
  std::int64_t row;

  __device__ SweptRows(const RowArguments& args_, std::int64_t row_) : args(args_), row(row_) {
#pragma unroll
    for (int k = 0; k < Op::kIn; ++k) {
      with_row<Native>(args.in[k], row, [&](const auto* from) {
        this->in[k][0] = static_cast<T>(from[0]);
      });
    }
  }
  __device__ __forceinline__ void load(const Place& place) {
#pragma unroll
    for (int k = 0; k < Op::kIn; ++k) {
      if (args.in[k].stride == 1) continue;
      with_row<Native>(args.in[k], row, [&](const auto* from) {
        place.load(from, this->in[k] + 1);
      });
    }
  }
  __device__ __forceinline__ void store(const Place& place) const {
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) {
      if (args.out[k].stride == 1) continue;
      with_row<Native>(args.out[k], row, [&](auto* to) { place.store(to, this->out[k] + 1); });
    }
  }
  __device__ __forceinline__ void store_time() const {
#pragma unroll
    for (int k = 0; k < Op::kOut; ++k) {
      with_row<Native>(args.out[k], row, [&](auto* to) {
        to[0] = stored_as<std::remove_pointer_t<decltype(to)>>(this->out[k][0]);
      });
    }
  }
};

template <class Op, class T, class Native>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    swept_rows(const RowArguments args, const Space<T> space, std::int64_t rows, bool quads) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    SweptRows<Op, T, Native> swept(args, row);
    const Sweepers<SweptRows<Op, T, Native>> team{swept, args.width, quads};
    swept.run(team, space, args.width);
    if (team.leads()) swept.store_time();
  }
}

template <class Native>
bool takes_quads(const Table& table, int width) {
  if (table.stride == 1) return true;
  if (table.storage == Storage::kNative) {
    return takes_quads(static_cast<const Native*>(table.data), width);
  }
  return takes_quads(static_cast<const std::uint16_t*>(table.data), width);
}

template <template <class> class OpOf, class Native>
void launch_rows(const char* name, const Stream& stream, const RowArguments& args,
                 const Space<Native>& native, std::int64_t rows) {
  using T = OpArithmetic<OpOf, Native>;
  using Op = OpOf<T>;
  if (rows == 0) return;
  const Space<T> space = native.template as<T>();
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  bool quads = true;
  for (int k = 0; k < Op::kIn; ++k) quads &= takes_quads<Native>(args.in[k], args.width);
  for (int k = 0; k < Op::kOut; ++k) quads &= takes_quads<Native>(args.out[k], args.width);
  const bool held = with_holders(args.width, [&]<int kTeam>(std::integral_constant<int, kTeam>) {
    HDRM_LAUNCH_AS(name, (held_rows<Op, T, Native, kTeam>), blocks_for(rows, kRowThreads / kTeam),
                   kRowThreads, 0, handle, args, space, rows, quads);
  });
  if (held) return;
  HDRM_LAUNCH_AS(name, (swept_rows<Op, T, Native>), blocks_for(rows, 1), kRowThreads, 0, handle,
                 args, space, rows, quads);
}

// Defines `const RowKernel name` from an op of T.
#define HDRM_ROW_KERNEL(name, ...)                                                           \
  template <class T>                                                                         \
  using name##_op = __VA_ARGS__;                                                             \
  template <class Native>                                                                    \
  static void launch_##name(const Stream& stream, const RowArguments& args,                  \
                            const Space<Native>& space, std::int64_t rows) {                 \
    launch_rows<name##_op, Native>(#name, stream, args, space, rows);                        \
  }                                                                                          \
  extern const RowKernel name = {launch_##name<float>, launch_##name<double>,                \
                                 name##_op<float>::kIn, name##_op<float>::kOut};

}  // namespace hdrm::cuda
