// Ops on rows as torch sees them: from tensors to a RowKernel and back.
#pragma once

#include <algorithm>
#include <array>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "binding/binding.h"

namespace hdrm::binding {

inline Storage storage_of(const Tensor& tensor) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return Storage::kBfloat16;
  if (tensor.scalar_type() == ScalarType::Half) return Storage::kHalf;
  return Storage::kNative;
}

// What an op's results look like.
enum class Result {
  kRows,               // rows like the inputs, in the dtype of the arithmetic
  kNumberPerRow,       // one number per row
  kGradients,          // rows like the last inputs, each in its dtype; the first input is rows
  kGradientsOfNumber,  // the same, but the first input has one number per row
};

template <class T>
void run_rows(const Cpu&, const cpu::RowKernel& kernel, const RowArguments& arguments,
              const Space<T>& space, std::int64_t rows) {
  const auto loop = std::get<cpu::RowLoop<T>>(std::tuple(kernel.f32, kernel.f64));
  torch::stable::parallel_for(0, rows, cpu::grain_rows(arguments.width),
                              [&](std::int64_t begin, std::int64_t end) {
                                loop(arguments, space, begin, end);
                              });
}

template <class T>
void run_rows(Cuda& device, const cuda::RowKernel& kernel, const RowArguments& arguments,
              const Space<T>& space, std::int64_t rows) {
  std::get<cuda::RowLaunch<T>>(std::tuple(kernel.f32, kernel.f64))(device.on(), arguments,
                                                                   space, rows);
}

// Tensors of shape (..., d+1), or (...) where a row op has one number per row; all other dimensions
// agree. Everything runs over (rows, width), in double if the first tensor is, else in float, to
// which tensors of 16 bits are widened.
template <class Device, std::size_t kIn>
std::vector<Tensor> run_row_kernel(const typename Device::RowKernel& kernel,
                                   std::array<Tensor, kIn> in, Result result, double c,
                                   double margin = 0) {
  auto device = std::apply([](const auto&... tensors) { return Device(tensors...); }, in);
  const Tensor& full = in.back();
  const int width = width_of(full);
  const std::int64_t rows = full.numel() / width;
  const std::vector<std::int64_t> sizes(full.sizes().begin(), full.sizes().end());
  const ScalarType type = arithmetic(in[0]);
  const bool is_double = type == ScalarType::Double;
  RowArguments arguments{};
  arguments.width = width;
  for (std::size_t k = 0; k < kIn; ++k) {
    const bool number = k == 0 && result == Result::kGradientsOfNumber;
    const std::int64_t stride = number ? 1 : width;
    const Storage storage = storage_of(in[k]);
    const auto expected = std::span(sizes).first(sizes.size() - number);
    STD_TORCH_CHECK(std::ranges::equal(in[k].sizes(), expected) &&
                        (in[k].scalar_type() == type ||
                         (!is_double && storage != Storage::kNative)),
                    "hdrm: tensors of one op must agree in shape and dtype");
    in[k] = without_gaps(in[k]);
    arguments.in[k] = {const_cast<void*>(in[k].const_data_ptr()), stride, storage};
  }
  const bool numbers = result == Result::kNumberPerRow;
  const torch::headeronly::IntHeaderOnlyArrayRef shape(sizes.data(), sizes.size() - numbers);
  std::vector<Tensor> out;
  for (int k = 0; k < kernel.num_out; ++k) {
    const bool like_input = result == Result::kGradients || result == Result::kGradientsOfNumber;
    const ScalarType out_type = like_input ? in[kIn - kernel.num_out + k].scalar_type() : type;
    out.push_back(new_result(in[0], shape, out_type));
    arguments.out[k] = {out[k].mutable_data_ptr(), numbers ? 1 : width, storage_of(out[k])};
  }
  if (is_double) {
    run_rows(device, kernel, arguments, Space<double>(c, margin), rows);
  } else {
    run_rows(device, kernel, arguments, Space<float>(c, margin), rows);
  }
  return out;
}

template <std::size_t>
using Row = const Tensor&;

// One result, or a tuple of kOut.
template <int kOut>
auto results(std::vector<Tensor>&& out) {
  if constexpr (kOut == 1) {
    return out[0];
  } else {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return std::tuple<std::remove_cvref_t<decltype((void(I), out[0]))>...>(out[I]...);
    }(std::make_index_sequence<kOut>());
  }
}

template <class Device, const cpu::RowKernel& host, const cuda::RowKernel& device, int kOut,
          Result kResult, class Inputs>
struct RowOp;

template <class Device, const cpu::RowKernel& host, const cuda::RowKernel& device, int kOut,
          Result kResult, std::size_t... I>
struct RowOp<Device, host, device, kOut, kResult, std::index_sequence<I...>> {
  static const auto& kernel() {
    if constexpr (Device::kHost) {
      return host;
    } else {
      return device;
    }
  }
  static auto call(Row<I>... rows, double c) {
    return results<kOut>(
        run_row_kernel<Device, sizeof...(I)>(kernel(), {rows...}, kResult, c));
  }
  static auto call_with_margin(Row<I>... rows, double margin, double c) {
    return results<kOut>(
        run_row_kernel<Device, sizeof...(I)>(kernel(), {rows...}, kResult, c, margin));
  }
};

// Inside of a template on the Device, for a library m: a row op with its numbers of tensors.
#define HDRM_ROW_OP(name, in, out, result, call)                                           \
  m.impl(#name, TORCH_BOX((&RowOp<Device, cpu::name, cuda::name, out, Result::result,      \
                                  std::make_index_sequence<in>>::call)))
#define HDRM_ROWS(name, in) HDRM_ROW_OP(name, in, 1, kRows, call)
#define HDRM_NUMBERS(name, in) HDRM_ROW_OP(name, in, 1, kNumberPerRow, call)
#define HDRM_GRADIENTS(name, in, out) HDRM_ROW_OP(name, in, out, kGradients, call)
#define HDRM_NUMBER_GRADIENTS(name, in, out) HDRM_ROW_OP(name, in, out, kGradientsOfNumber, call)

}  // namespace hdrm::binding
