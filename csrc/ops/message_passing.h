// Rounds of neighbourhood averaging; formulas in hdrm/ops/message_passing.py. Where they run is
// what the first argument says.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/math.h"
#include "rows/storage.h"

namespace hdrm {

// Tables are (num_nodes, width), rows contiguous; x, its gradient and the results of float, double,
// Bfloat16 or Half. W is what tables of scratch have: the arithmetic's type, or Bfloat16 where that
// is float.
template <class S, class W = Arithmetic<S>>
struct Propagation {
  using T = Arithmetic<S>;
  static constexpr bool kNarrow = !std::is_same_v<W, T>;
  const std::int64_t* rowptr;
  const std::int32_t* col;
  std::int64_t num_nodes, num_entries;
  int width;
  std::int64_t num_layers;
  bool lorentz, symmetric, mean;
  Space<T> space;
  T* factor;  // (num_nodes,) scratch
  // Tables of scratch: round l gathers work[l % 2] and fills the other one, the last round `out`.
  // `out` may serve as the one that the last does not gather. The first round gathers x itself, so
  // that two layers use work[0] alone; narrow tables it gathers too.
  W* work[2];
};

// out ← Σ or mean of the rounds of x.
template <class S, class W>
void propagate(const cpu::Parallel&, const Propagation<S, W>& p, const S* x, S* out);
template <class S, class W>
void propagate(const cuda::Stream&, const Propagation<S, W>& p, const S* x, S* out);

// gx ← gradient of x, from the gradient g of out.
template <class S, class W>
void propagate_backward(const cpu::Parallel&, const Propagation<S, W>& p, const S* g, const S* x,
                        S* gx);
template <class S, class W>
void propagate_backward(const cuda::Stream&, const Propagation<S, W>& p, const S* g, const S* x,
                        S* gx);

}  // namespace hdrm
