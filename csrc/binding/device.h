// Where an op runs. It makes a Cpu or a Cuda of its tensors, asks it for `on()`, the first argument
// of what csrc/ops declares, and keeps it until the kernels are started.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_kernels.h"
#include "cuda/row_kernels.h"
#include "cuda/stream.h"

namespace hdrm::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Library = torch::stable::detail::StableLibrary;  // what STABLE_TORCH_LIBRARY_IMPL names m

// torch's threads.
class Cpu {
 public:
  using RowKernel = cpu::RowKernel;
  static constexpr bool kHost = true;

  // The dispatcher comes here only if all tensors are the host's.
  template <class... Tensors>
  explicit Cpu(const Tensors&...) {}

  cpu::Parallel on() const {
    return {[](std::int64_t size, std::int64_t grain, const auto& body) {
              if (size > 0) torch::stable::parallel_for(0, size, grain, body);
            },
            static_cast<int>(torch::stable::get_num_threads())};
  }
};

// The current stream of the tensors' device, which is made the current one meanwhile.
class Cuda {
 public:
  using RowKernel = cuda::RowKernel;
  static constexpr bool kHost = false;

  // Others may be std::optional.
  template <class... Others>
  explicit Cuda(const Tensor& first, const Others&... others) : like_(first) {
    (check_device(others), ...);
    if (!first.is_cuda()) return;  // the tests' emulator, which has no streams
    guard_.emplace(first.get_device_index());
    stream_ = torch::stable::accelerator::getCurrentStream(first.get_device_index()).nativeHandle();
  }
  Cuda(const Cuda&) = delete;

  // Its scratch memory lives as long as this: then torch's allocator gives it to what is started
  // later in the same stream.
  cuda::Stream on() {
    return {stream_, [this](std::int64_t bytes) {
              scratch_.push_back(torch::stable::new_empty(like_, {bytes}, ScalarType::Byte));
              return scratch_.back().mutable_data_ptr();
            }};
  }

 private:
  void check_device(const Tensor& other) const {
    STD_TORCH_CHECK(other.device() == like_.device(),
                    "hdrm: all tensors of an op must be on one device");
  }
  void check_device(const std::optional<Tensor>& other) const {
    if (other) check_device(*other);
  }

  Tensor like_;
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  void* stream_ = nullptr;
  std::vector<Tensor> scratch_;
};

// HDRM_REGISTER(f) lets f<Device>(library) register a family's ops: as `hdrm` on either device, and
// on CUDA as `hdrm_cuda` too, which is always these kernels; see hdrm/ops/backend.py.
#define HDRM_REGISTER_ON(library, key, f, Device) \
  STABLE_TORCH_LIBRARY_IMPL(library, key, m) { f<Device>(m); }
#if defined(HDRM_CUDA_ON_CPU)  // for the tests: csrc/cuda, run by an emulator on the CPU's tensors
#define HDRM_REGISTER(f) HDRM_REGISTER_ON(hdrm_cuda, CPU, f, Cuda)
#elif defined(HDRM_WITH_CUDA)
#define HDRM_REGISTER(f)                   \
  HDRM_REGISTER_ON(hdrm, CPU, f, Cpu)      \
  HDRM_REGISTER_ON(hdrm, CUDA, f, Cuda)    \
  HDRM_REGISTER_ON(hdrm_cuda, CUDA, f, Cuda)
#else
#define HDRM_REGISTER(f) HDRM_REGISTER_ON(hdrm, CPU, f, Cpu)
#endif

}  // namespace hdrm::binding
