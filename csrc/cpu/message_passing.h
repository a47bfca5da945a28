#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "rows/math.h"

namespace hdrm::cpu {

// Tables are (num_nodes, width), rows contiguous.
template <class T>
struct Propagation {
  const std::int64_t* rowptr;
  const std::int32_t* col;
  std::int64_t num_nodes;
  int width;
  int num_layers;
  bool lorentz, symmetric, mean;
  Space<T> space;
  T* factor;   // (num_nodes,) scratch
  T* work[2];  // two tables of scratch; unused where num_layers does not need them
};

// out ← Σ or mean of the rounds of x.
template <class T>
void propagate(const Parallel& parallel, const Propagation<T>& p, const T* x, T* out);

// gx ← gradient of x, from the gradient g of out.
template <class T>
void propagate_backward(const Parallel& parallel, const Propagation<T>& p, const T* g, const T* x,
                        T* gx);

}  // namespace hdrm::cpu
