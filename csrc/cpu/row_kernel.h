// The loop over rows that every row op runs in on the CPU, and the table entry that describes it.
// No torch here: the binding cuts the rows into ranges, one thread each.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/clones.h"
#include "rows/math.h"

namespace hdrm::cpu {

inline constexpr int kMaxRows = 4;  // tensors on either side of a row op

template <class T>
struct RowArguments {
  const T* in[kMaxRows];
  T* out[kMaxRows];
  std::int64_t in_stride[kMaxRows], out_stride[kMaxRows];  // from row to row: the width, or 1
  int width;
};

template <class T>
using RowLoop = void (*)(const RowArguments<T>&, const Space<T>&, std::int64_t begin,
                         std::int64_t end);

// A row op as the binding sees it.
struct RowKernel {
  RowLoop<float> f32;
  RowLoop<double> f64;
  int num_in, num_out;
};

// Runs rows begin … end−1. Sums and scalars of a block of rows are kept side by side, so that the
// transcendental functions are evaluated for several rows at once.
template <class Op, class T>
HDRM_FN void run_rows(const RowArguments<T>& args, const Space<T>& space, std::int64_t begin,
                      std::int64_t end) {
  constexpr int kBlock = 16;
  const Serial team;
  typename Op::State state[kBlock] = {};
  const T* in[kBlock][Op::kIn];
  T* out[kBlock][Op::kOut];
  for (std::int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(std::min<std::int64_t>(kBlock, end - first));
    for (int j = 0; j < count; ++j) {
      for (int k = 0; k < Op::kIn; ++k) in[j][k] = args.in[k] + (first + j) * args.in_stride[k];
      for (int k = 0; k < Op::kOut; ++k) out[j][k] = args.out[k] + (first + j) * args.out_stride[k];
    }
    const auto pass = [&]<int p>() __attribute__((always_inline)) {
      if constexpr (p < Op::kPasses) {
        for (int j = 0; j < count; ++j) {
          Op::template reduce<p>(team, in[j], out[j], args.width, state[j]);
        }
#pragma omp simd
        for (int j = 0; j < kBlock; ++j) Op::template solve<p>(space, state[j]);
      }
    };
    pass.template operator()<0>();
    pass.template operator()<1>();
    pass.template operator()<2>();
    pass.template operator()<3>();
    for (int j = 0; j < count; ++j) {
      Op::store(team, space, in[j], out[j], args.width, state[j]);
    }
  }
}

// Defines `const RowKernel name`. A function of its own for each type, since clones are not made of
// templates.
#define HDRM_ROW_KERNEL(name, ...)                                                             \
  HDRM_CLONES static void name##_f32(const RowArguments<float>& a, const Space<float>& s,      \
                                     std::int64_t begin, std::int64_t end) {                   \
    using T = float;                                                                           \
    run_rows<__VA_ARGS__, T>(a, s, begin, end);                                                \
  }                                                                                            \
  HDRM_CLONES static void name##_f64(const RowArguments<double>& a, const Space<double>& s,    \
                                     std::int64_t begin, std::int64_t end) {                   \
    using T = double;                                                                          \
    run_rows<__VA_ARGS__, T>(a, s, begin, end);                                                \
  }                                                                                            \
  namespace name##_op {                                                                        \
  using T = float;                                                                             \
  using Op = __VA_ARGS__;                                                                      \
  }                                                                                            \
  extern const RowKernel name = {name##_f32, name##_f64, name##_op::Op::kIn,                   \
                                 name##_op::Op::kOut};

}  // namespace hdrm::cpu
