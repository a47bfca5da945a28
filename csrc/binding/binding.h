// What the files of this folder share: one per op family, which checks an op's arguments and calls
// its kernels. They are the only ones that know torch, through its stable ABI (torch/csrc/stable),
// so that one binary serves every torch from 2.13 on.
//
// An op is a template on the device it runs on, Cpu or Cuda: checked once, registered for both.
// Schemas, fakes and autograd are declared in Python, in hdrm/ops, whose public functions check
// their arguments and explain; a binding checks only what would otherwise read or write outside a
// tensor. A device's tensors it can judge by shape and dtype alone, as their contents could not be
// looked at without waiting for them.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "binding/device.h"
#include "cpu/kept_memory.h"
#include "rows/storage.h"

namespace hdrm::binding {

// Calls f with a float or a double, for the element type of the tensor.
template <class F>
void by_type(const Tensor& tensor, F f) {
  if (tensor.scalar_type() == ScalarType::Float) return f(float());
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double,
                  "hdrm: this op takes float32 or float64 tensors");
  f(double());
}

// The same for tensors that may have 16 bits: f gets a Bfloat16 or a Half then.
template <class F>
void by_storage(const Tensor& tensor, F f) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return f(Bfloat16());
  if (tensor.scalar_type() == ScalarType::Half) return f(Half());
  by_type(tensor, f);
}

// What elements of the tensor are computed in.
inline ScalarType arithmetic(const Tensor& tensor) {
  const bool is_double = tensor.scalar_type() == ScalarType::Double;
  return is_double ? ScalarType::Double : ScalarType::Float;
}

// The width of a table's rows, which kernels hold in an int and divide by.
inline int width_of(const Tensor& table) {
  const std::int64_t width = table.dim() > 0 ? table.size(table.dim() - 1) : 0;
  STD_TORCH_CHECK(0 < width && width <= std::numeric_limits<int>::max(),
                  "hdrm: rows must have 1 to 2^31 - 1 elements, got ", width);
  return static_cast<int>(width);
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The tensor, or a copy of it without gaps. To ask for one through the dispatcher takes longer than a
// small table does.
inline Tensor without_gaps(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline std::int64_t element_bytes(ScalarType type) {
  switch (type) {
    case ScalarType::Double:
    case ScalarType::Long:
      return 8;
    case ScalarType::Float:
    case ScalarType::Int:
      return 4;
    case ScalarType::BFloat16:
    case ScalarType::Half:
      return 2;
    default:
      STD_TORCH_CHECK(false, "hdrm: no op has results of this type");
  }
}

// A tensor that an op will fill, on the device of `like`; a large one of the host's in memory that is
// kept for the next.
inline Tensor new_result(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                         ScalarType type) {
  std::int64_t bytes = element_bytes(type);
  for (const std::int64_t size : sizes) bytes *= size;
  if (!like.is_cpu() || bytes < cpu::kLargeBytes) {
    // Through the dispatcher, for all it costs: who fills fresh memory or counts it listens there.
    return torch::stable::new_empty(like, sizes, type);
  }
  std::vector<std::int64_t> strides(sizes.size(), 1);
  for (std::size_t k = sizes.size(); k-- > 1;) strides[k - 1] = strides[k] * sizes[k];
  return torch::stable::from_blob(cpu::take_memory(bytes), sizes, strides, like.device(), type,
                                  &cpu::give_back_memory);
}

inline void check_seed(const Tensor& seed) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                  "hdrm: a seed is an int64 tensor of shape (1,)");
}

}  // namespace hdrm::binding
