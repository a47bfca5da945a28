// float rows whose op computes in double. A map at a base point multiplies a vector with a Jacobian
// whose parts may cancel, by any factor: in double the rest is still right to a float's rounding.
#pragma once

#include <type_traits>

#include "rows/team.h"

namespace hdrm {

// What an op computes in on tables of T: double if it says kWide.
template <class Op>
concept Wide = requires { Op::kWide; };
template <template <class> class Op, class T>
using OpArithmetic = std::conditional_t<Wide<Op<T>>, double, T>;

// A row of Stored that is read as T, and rounded to Stored where it is written.
template <class T, class Stored>
struct WideRow {
  Stored* data;

  struct Element {
    Stored& stored;
    HDRM_FN T operator=(T value) const {
      stored = static_cast<Stored>(value);
      return value;
    }
  };

  HDRM_FN auto operator[](int i) const {
    if constexpr (std::is_const_v<Stored>) {
      return static_cast<T>(data[i]);
    } else {
      return Element{data[i]};
    }
  }
};

// How an op that computes in T sees a row of Stored.
template <class T, class Stored>
using RowOf = std::conditional_t<std::is_same_v<T, std::remove_const_t<Stored>>, Stored*,
                                 WideRow<T, Stored>>;

}  // namespace hdrm
