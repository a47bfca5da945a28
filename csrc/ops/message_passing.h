// Rounds of neighbourhood averaging; formulas in hdrm/ops/message_passing.py. Where they run is
// what the first argument says.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/math.h"
#include "rows/storage.h"

namespace hdrm {

// Tables are (num_nodes, width), rows contiguous; x, its gradient and the results of float, double,
// Bfloat16 or Half.
template <class S>
struct Propagation {
  using T = Arithmetic<S>;
  const std::int64_t* rowptr;
  const std::int32_t* col;
  std::int64_t num_nodes, num_entries;
  int width;
  std::int64_t num_layers;
  bool lorentz, symmetric, mean;
  Space<T> space;
  T* factor;  // (num_nodes,) scratch
  // Tables of scratch: round l gathers work[l % 2] and fills the other one, the last round `out`.
  // So two layers use work[0] alone, and `out` may serve as the one that the last does not gather.
  T* work[2];
};

// out ← Σ or mean of the rounds of x.
template <class S>
void propagate(const cpu::Parallel&, const Propagation<S>& p, const S* x, S* out);
template <class S>
void propagate(const cuda::Stream&, const Propagation<S>& p, const S* x, S* out);

// gx ← gradient of x, from the gradient g of out.
template <class S>
void propagate_backward(const cpu::Parallel&, const Propagation<S>& p, const S* g, const S* x,
                        S* gx);
template <class S>
void propagate_backward(const cuda::Stream&, const Propagation<S>& p, const S* g, const S* x,
                        S* gx);

}  // namespace hdrm
