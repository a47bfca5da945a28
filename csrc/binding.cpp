// Registers the native kernels with torch: the only file that knows torch, through its stable ABI
// (torch/csrc/stable), so that one binary serves every torch from 2.13 on. Schemas, fakes and
// autograd are declared in Python, in hdrm/ops.
//
// The public functions of hdrm/ops check their arguments and explain; what is checked here is only
// what would otherwise read or write outside a tensor.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/row_kernels.h"

namespace hdrm {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements that a thread should have to work on before it is worth waking it.
constexpr std::int64_t kGrain = 1 << 14;

std::int64_t rows_per_thread(std::int64_t width) { return std::max<std::int64_t>(1, kGrain / width); }

// Calls f with a float or a double, for the element type of the tensor.
template <class F>
void by_type(const Tensor& tensor, F f) {
  if (tensor.scalar_type() == ScalarType::Float) return f(float());
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double,
                  "hdrm's kernels take float32 or float64 tensors");
  f(double());
}

// Tensors of shape (..., d+1), or (...) where a row op has one number per row; all other dimensions
// agree. Everything runs over (rows, width).
template <std::size_t kIn>
std::vector<Tensor> run_row_kernel(const cpu::RowKernel& kernel, std::array<Tensor, kIn> in,
                                   bool number_per_row, double c, double margin = 0) {
  const Tensor* full = &in[0];
  for (const Tensor& tensor : in) {
    if (tensor.dim() > full->dim()) full = &tensor;
  }
  const std::vector<std::int64_t> sizes(full->sizes().begin(), full->sizes().end());
  STD_TORCH_CHECK(!sizes.empty() && sizes.back() > 0, "hdrm: rows must have at least one element");
  const std::int64_t width = sizes.back(), rows = full->numel() / width;
  const ScalarType type = full->scalar_type();
  std::array<std::int64_t, kIn> stride;
  for (std::size_t k = 0; k < kIn; ++k) {
    stride[k] = in[k].dim() == full->dim() ? width : 1;
    STD_TORCH_CHECK(in[k].numel() == rows * stride[k] && in[k].scalar_type() == type,
                    "hdrm: tensors of one op must agree in shape and dtype");
    in[k] = torch::stable::contiguous(in[k]);
  }
  std::vector<Tensor> out;
  const torch::headeronly::IntHeaderOnlyArrayRef shape(sizes.data(),
                                                       sizes.size() - (number_per_row ? 1 : 0));
  for (int k = 0; k < kernel.num_out; ++k) out.push_back(torch::stable::new_empty(in[0], shape));

  by_type(in[0], [&]<class T>(T) {
    cpu::RowArguments<T> arguments{};
    arguments.width = static_cast<int>(width);
    for (std::size_t k = 0; k < kIn; ++k) {
      arguments.in[k] = static_cast<const T*>(in[k].const_data_ptr());
      arguments.in_stride[k] = stride[k];
    }
    for (int k = 0; k < kernel.num_out; ++k) {
      arguments.out[k] = static_cast<T*>(out[k].mutable_data_ptr());
      arguments.out_stride[k] = number_per_row ? 1 : width;
    }
    const Space<T> space(c, margin);
    const auto loop = [&] {
      if constexpr (std::is_same_v<T, float>) return kernel.f32;
      else return kernel.f64;
    }();
    torch::stable::parallel_for(0, rows, rows_per_thread(width),
                                [&](std::int64_t begin, std::int64_t end) {
                                  loop(arguments, space, begin, end);
                                });
  });
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

template <const cpu::RowKernel& kernel, int kOut, bool kNumberPerRow, class Inputs>
struct RowOp;

template <const cpu::RowKernel& kernel, int kOut, bool kNumberPerRow, std::size_t... I>
struct RowOp<kernel, kOut, kNumberPerRow, std::index_sequence<I...>> {
  static auto call(Row<I>... rows, double c) {
    return results<kOut>(
        run_row_kernel<sizeof...(I)>(kernel, {rows...}, kNumberPerRow, c));
  }
  static auto call_with_margin(Row<I>... rows, double margin, double c) {
    return results<kOut>(
        run_row_kernel<sizeof...(I)>(kernel, {rows...}, kNumberPerRow, c, margin));
  }
};

#define HDRM_ROWS(name, in, out) \
  m.impl(#name, TORCH_BOX((&RowOp<cpu::name, out, false, std::make_index_sequence<in>>::call)))
#define HDRM_NUMBERS(name, in) \
  m.impl(#name, TORCH_BOX((&RowOp<cpu::name, 1, true, std::make_index_sequence<in>>::call)))

STABLE_TORCH_LIBRARY_IMPL(hdrm, CPU, m) {
  HDRM_ROWS(expmap0, 1, 1);
  HDRM_ROWS(expmap0_backward, 2, 1);
  HDRM_ROWS(logmap0, 1, 1);
  HDRM_ROWS(logmap0_backward, 2, 1);
  HDRM_ROWS(project, 1, 1);
  HDRM_ROWS(project_backward, 2, 1);
  HDRM_ROWS(project_tangent, 2, 1);
  HDRM_ROWS(project_tangent_backward, 3, 2);
  HDRM_ROWS(expmap, 2, 1);
  HDRM_ROWS(expmap_backward, 3, 2);
  HDRM_ROWS(logmap, 2, 1);
  HDRM_ROWS(logmap_backward, 3, 2);
  HDRM_ROWS(transport, 3, 1);
  HDRM_ROWS(transport_backward, 4, 3);
  HDRM_ROWS(egrad2rgrad, 2, 1);
  HDRM_ROWS(egrad2rgrad_backward, 3, 2);
  HDRM_NUMBERS(distance, 2);
  HDRM_ROWS(distance_backward, 3, 2);
  HDRM_NUMBERS(sqdist, 2);
  HDRM_ROWS(sqdist_backward, 3, 2);
  HDRM_NUMBERS(sqdist0, 2);
  HDRM_ROWS(sqdist0_backward, 3, 2);
  m.impl("margin_ranking",
         TORCH_BOX((&RowOp<cpu::margin_ranking, 1, true,
                           std::make_index_sequence<3>>::call_with_margin)));
  m.impl("margin_ranking_backward",
         TORCH_BOX((&RowOp<cpu::margin_ranking_backward, 3, false,
                           std::make_index_sequence<4>>::call_with_margin)));
}

}  // namespace
}  // namespace hdrm
