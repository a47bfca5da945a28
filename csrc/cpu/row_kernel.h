// The loop over rows that every row op runs in on the CPU, and the table entry that describes it.
// No torch here: the binding cuts the rows into ranges, one thread each.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/clones.h"
#include "cpu/team.h"
#include "rows/math.h"
#include "rows/storage.h"
#include "rows/tables.h"
#include "rows/wide.h"

namespace hdrm::cpu {

template <class T>
using RowLoop = void (*)(const RowArguments&, const Space<T>&, std::int64_t begin,
                         std::int64_t end);

// A row op as the binding sees it.
struct RowKernel {
  RowLoop<float> f32;
  RowLoop<double> f64;
  int num_in, num_out;
};

constexpr int kBlock = 16;  // rows whose scalars are computed at once

// A block's rows of one table as T. Rows of 16 bits go through a buffer that stays in cache; others
// are used where they are.
template <class T>
class BlockRows {
 public:
  BlockRows(const Table& table, int width)
      : table_(table), buffer_(table.storage == Storage::kNative ? 0 : kBlock * width) {}

  HDRM_FN T* row(std::int64_t first, int j) {
    if (buffer_.empty()) return static_cast<T*>(table_.data) + (first + j) * table_.stride;
    return buffer_.data() + j * table_.stride;
  }

  HDRM_FN void load(std::int64_t first, int count) {
    if constexpr (std::is_same_v<T, float>) {
      if (buffer_.empty()) return;
      const auto* bits = static_cast<const std::uint16_t*>(table_.data) + first * table_.stride;
      float* to = buffer_.data();
      const auto size = count * table_.stride;
      if (table_.storage == Storage::kBfloat16) {
        for (std::int64_t i = 0; i < size; ++i) to[i] = widen_bfloat16(bits[i]);
      } else {
        for (std::int64_t i = 0; i < size; ++i) to[i] = widen_half(bits[i]);
      }
    }
  }

  HDRM_FN void store(std::int64_t first, int count) {
    if constexpr (std::is_same_v<T, float>) {
      if (buffer_.empty()) return;
      auto* bits = static_cast<std::uint16_t*>(table_.data) + first * table_.stride;
      const float* from = buffer_.data();
      const auto size = count * table_.stride;
      if (table_.storage == Storage::kBfloat16) {
        for (std::int64_t i = 0; i < size; ++i) bits[i] = to_bfloat16(from[i]);
      } else {
        for (std::int64_t i = 0; i < size; ++i) bits[i] = to_half(from[i]);
      }
    }
  }

 private:
  const Table table_;
  std::vector<T> buffer_;
};

// The states of a block's rows, field by field: solve then runs in SIMD lanes, a row in each.
template <class T, class State>
class States {
 public:
  HDRM_FN State get(int j) const {
    State state;
    copy(j, state, std::make_index_sequence<kFields>());
    return state;
  }
  template <class F>
  HDRM_FN void change(int j, F change) {
    State state = get(j);
    change(state);
    keep(j, state, std::make_index_sequence<kFields>());
  }

 private:
  static constexpr std::size_t kFields = sizeof(State) / sizeof(T);
  static_assert(std::is_trivially_copyable_v<State> && sizeof(State) == kFields * sizeof(T),
                "a state has fields of T only");

  template <std::size_t... field>
  HDRM_FN void copy(int j, State& state, std::index_sequence<field...>) const {
    ((reinterpret_cast<T*>(&state)[field] = fields_[field][j]), ...);
  }
  template <std::size_t... field>
  HDRM_FN void keep(int j, const State& state, std::index_sequence<field...>) {
    ((fields_[field][j] = reinterpret_cast<const T*>(&state)[field]), ...);
  }

  T fields_[kFields][kBlock] = {};
};

// Runs rows begin … end−1. The scalars of a block of rows are computed side by side, so that the
// transcendental functions are evaluated for several rows at once.
template <int kBytes, template <class> class OpOf, class Native>
HDRM_FN void run_rows(const RowArguments& args, const Space<Native>& native, std::int64_t begin,
                      std::int64_t end) {
  using T = OpArithmetic<OpOf, Native>;
  using Op = OpOf<T>;
  const Space<T> space = native.template as<T>();
  const Host<kBytes> team;
  States<T, typename Op::State> states;
  std::vector<BlockRows<Native>> tables;
  for (int k = 0; k < Op::kIn; ++k) tables.emplace_back(args.in[k], args.width);
  for (int k = 0; k < Op::kOut; ++k) tables.emplace_back(args.out[k], args.width);
  RowOf<T, const Native> in[kBlock][Op::kIn];
  RowOf<T, Native> out[kBlock][Op::kOut];
  for (std::int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(std::min<std::int64_t>(kBlock, end - first));
    for (int k = 0; k < Op::kIn; ++k) {
      tables[k].load(first, count);
      for (int j = 0; j < count; ++j) in[j][k] = {tables[k].row(first, j)};
    }
    for (int k = 0; k < Op::kOut; ++k) {
      for (int j = 0; j < count; ++j) out[j][k] = {tables[Op::kIn + k].row(first, j)};
    }
    const auto pass = [&]<int p>() __attribute__((always_inline)) {
      if constexpr (p < Op::kPasses) {
        for (int j = 0; j < count; ++j) {
          states.change(j, [&](auto& state) __attribute__((always_inline)) {
            Op::template reduce<p>(team, in[j], out[j], args.width, state);
          });
        }
#pragma omp simd
        for (int j = 0; j < kBlock; ++j) {
          states.change(j, [&](auto& state) __attribute__((always_inline)) {
            Op::template solve<p>(space, state);
          });
        }
      }
    };
    pass.template operator()<0>();
    pass.template operator()<1>();
    pass.template operator()<2>();
    for (int j = 0; j < count; ++j) {
      Op::store(team, space, in[j], out[j], args.width, states.get(j));
    }
    for (int k = 0; k < Op::kOut; ++k) tables[Op::kIn + k].store(first, count);
  }
}

// Defines `const RowKernel name` from an op of T. A function of its own for each type, since levels
// are not made of templates; called, for the address of one of several levels is not always made.
#define HDRM_ROW_KERNEL(name, ...)                                                              \
  template <class T>                                                                            \
  using name##_op = __VA_ARGS__;                                                                \
  HDRM_LEVELS(HDRM_ROW_LOOPS, name)                                                             \
  extern const RowKernel name = {                                                               \
      [](const RowArguments& a, const Space<float>& s, std::int64_t begin, std::int64_t end) {  \
        name##_f32(a, s, begin, end);                                                           \
      },                                                                                        \
      [](const RowArguments& a, const Space<double>& s, std::int64_t begin, std::int64_t end) { \
        name##_f64(a, s, begin, end);                                                           \
      },                                                                                        \
      name##_op<float>::kIn, name##_op<float>::kOut};
#define HDRM_ROW_LOOPS(level, bytes, name)                                                 \
  level static void name##_f32(const RowArguments& a, const Space<float>& s,               \
                               std::int64_t begin, std::int64_t end) {                     \
    run_rows<bytes, name##_op, float>(a, s, begin, end);                                   \
  }                                                                                        \
  level static void name##_f64(const RowArguments& a, const Space<double>& s,              \
                               std::int64_t begin, std::int64_t end) {                     \
    run_rows<bytes, name##_op, double>(a, s, begin, end);                                  \
  }

}  // namespace hdrm::cpu
