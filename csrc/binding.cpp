// Registers the kernels of rows, message passing, ranking and optimiser steps with torch.
#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "binding.h"
#include "cpu/message_passing.h"
#include "cpu/ranking.h"
#include "cpu/riemannian_step.h"
#include "cpu/row_kernels.h"

namespace hdrm {
namespace {

// Elements that a thread should have to work on before it is worth waking it.
constexpr std::int64_t kGrain = 1 << 14;

std::int64_t rows_per_thread(std::int64_t width) { return std::max<std::int64_t>(1, kGrain / width); }

Storage storage_of(const Tensor& tensor) {
  if (tensor.scalar_type() == ScalarType::BFloat16) return Storage::kBfloat16;
  if (tensor.scalar_type() == ScalarType::Half) return Storage::kHalf;
  return Storage::kNative;
}

// What an op's results look like.
enum class Result {
  kRows,          // rows like the inputs, in the dtype of the arithmetic
  kNumberPerRow,  // one number per row
  kGradients,     // rows like the last inputs, each in its dtype
};

// Tensors of shape (..., d+1), or (...) where a row op has one number per row; all other dimensions
// agree. Everything runs over (rows, width), in double if the first tensor is, else in float, to
// which tensors of 16 bits are widened.
template <std::size_t kIn>
std::vector<Tensor> run_row_kernel(const cpu::RowKernel& kernel, std::array<Tensor, kIn> in,
                                   Result result, double c, double margin = 0) {
  const Tensor* full = &in[0];
  for (const Tensor& tensor : in) {
    if (tensor.dim() > full->dim()) full = &tensor;
  }
  const std::vector<std::int64_t> sizes(full->sizes().begin(), full->sizes().end());
  STD_TORCH_CHECK(!sizes.empty() && sizes.back() > 0, "hdrm: rows must have at least one element");
  const std::int64_t width = sizes.back(), rows = full->numel() / width;
  const bool is_double = in[0].scalar_type() == ScalarType::Double;
  const ScalarType type = is_double ? ScalarType::Double : ScalarType::Float;
  cpu::RowArguments arguments{};
  arguments.width = static_cast<int>(width);
  for (std::size_t k = 0; k < kIn; ++k) {
    const std::int64_t stride = in[k].dim() == full->dim() ? width : 1;
    const Storage storage = storage_of(in[k]);
    STD_TORCH_CHECK(in[k].numel() == rows * stride &&
                        (in[k].scalar_type() == type || (!is_double && storage != Storage::kNative)),
                    "hdrm: tensors of one op must agree in shape and dtype");
    in[k] = torch::stable::contiguous(in[k]);
    arguments.in[k] = {const_cast<void*>(in[k].const_data_ptr()), stride, storage};
  }
  const bool numbers = result == Result::kNumberPerRow;
  const torch::headeronly::IntHeaderOnlyArrayRef shape(sizes.data(), sizes.size() - numbers);
  std::vector<Tensor> out;
  for (int k = 0; k < kernel.num_out; ++k) {
    const bool like_input = result == Result::kGradients;
    const ScalarType out_type = like_input ? in[kIn - kernel.num_out + k].scalar_type() : type;
    out.push_back(torch::stable::new_empty(in[0], shape, out_type));
    arguments.out[k] = {out[k].mutable_data_ptr(), numbers ? 1 : width, storage_of(out[k])};
  }
  const auto run = [&]<class T>(cpu::RowLoop<T> loop) {
    const Space<T> space(c, margin);
    torch::stable::parallel_for(0, rows, rows_per_thread(width),
                                [&](std::int64_t begin, std::int64_t end) {
                                  loop(arguments, space, begin, end);
                                });
  };
  is_double ? run(kernel.f64) : run(kernel.f32);
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

template <const cpu::RowKernel& kernel, int kOut, Result kResult, class Inputs>
struct RowOp;

template <const cpu::RowKernel& kernel, int kOut, Result kResult, std::size_t... I>
struct RowOp<kernel, kOut, kResult, std::index_sequence<I...>> {
  static auto call(Row<I>... rows, double c) {
    return results<kOut>(
        run_row_kernel<sizeof...(I)>(kernel, {rows...}, kResult, c));
  }
  static auto call_with_margin(Row<I>... rows, double margin, double c) {
    return results<kOut>(
        run_row_kernel<sizeof...(I)>(kernel, {rows...}, kResult, c, margin));
  }
};

#define HDRM_ROW_OP(name, in, out, result, call)                       \
  m.impl(#name, TORCH_BOX((&RowOp<cpu::name, out, Result::result,     \
                                  std::make_index_sequence<in>>::call)))
#define HDRM_ROWS(name, in) HDRM_ROW_OP(name, in, 1, kRows, call)
#define HDRM_NUMBERS(name, in) HDRM_ROW_OP(name, in, 1, kNumberPerRow, call)
#define HDRM_GRADIENTS(name, in, out) HDRM_ROW_OP(name, in, out, kGradients, call)

// Message passing ---------------------------------------------------------------------------------

// grad is undefined in the forward direction.
Tensor run_propagation(std::optional<Tensor> grad, Tensor x, Tensor rowptr, Tensor col,
                       std::int64_t num_layers, double c, bool lorentz, bool symmetric, bool mean) {
  STD_TORCH_CHECK(x.dim() == 2 && rowptr.numel() == x.size(0) + 1 && num_layers >= 1,
                  "hdrm::propagate: expected one row of x per node and at least one layer");
  STD_TORCH_CHECK(rowptr.scalar_type() == ScalarType::Long && col.scalar_type() == ScalarType::Int,
                  "hdrm::propagate: expected an int64 rowptr and an int32 col");
  x = torch::stable::contiguous(x);
  rowptr = torch::stable::contiguous(rowptr);
  col = torch::stable::contiguous(col);
  if (grad) {
    STD_TORCH_CHECK(grad->numel() == x.numel() && grad->scalar_type() == x.scalar_type(),
                    "hdrm::propagate_backward: the gradient must be like x");
    *grad = torch::stable::contiguous(*grad);
  }
  const Tensor out = torch::stable::empty_like(x);
  const Tensor factor = torch::stable::new_empty(x, {x.size(0)});
  std::array<Tensor, 2> work;
  for (std::int64_t k = 0; k < std::min<std::int64_t>(2, num_layers - 1); ++k) {
    work[k] = torch::stable::empty_like(x);
  }
  by_type(x, [&]<class T>(T) {
    cpu::Propagation<T> p{read<std::int64_t>(rowptr), read<std::int32_t>(col), x.size(0),
                          static_cast<int>(x.size(1)), static_cast<int>(num_layers), lorentz,
                          symmetric, mean, Space<T>(c, 0), write<T>(factor), {}};
    // Round l reads table l % 2 and fills the other, so a second layer uses table 0 alone.
    for (std::int64_t k = 0; k < std::min<std::int64_t>(2, num_layers - 1); ++k) {
      p.work[k] = write<T>(work[k]);
    }
    if (grad) {
      cpu::propagate_backward(torch_threads(), p, read<T>(*grad), read<T>(x), write<T>(out));
    } else {
      cpu::propagate(torch_threads(), p, read<T>(x), write<T>(out));
    }
  });
  return out;
}

Tensor propagate(const Tensor& x, const Tensor& rowptr, const Tensor& col, std::int64_t num_layers,
                 double c, bool lorentz, bool symmetric, bool mean) {
  return run_propagation(std::nullopt, x, rowptr, col, num_layers, c, lorentz, symmetric, mean);
}

Tensor propagate_backward(const Tensor& grad, const Tensor& x, const Tensor& rowptr,
                          const Tensor& col, std::int64_t num_layers, double c, bool lorentz,
                          bool symmetric, bool mean) {
  return run_propagation(grad, x, rowptr, col, num_layers, c, lorentz, symmetric, mean);
}

// Ranking -----------------------------------------------------------------------------------------

constexpr std::int64_t kScores = 1 << 21;  // elements of a block of scores

std::tuple<Tensor, Tensor> topk(const Tensor& users_, const Tensor& items_,
                                std::optional<Tensor> rowptr, std::optional<Tensor> col,
                                std::int64_t offset, std::int64_t k, double c) {
  STD_TORCH_CHECK(users_.dim() == 2 && items_.dim() == 2 && users_.size(1) == items_.size(1) &&
                      users_.scalar_type() == items_.scalar_type() && k <= items_.size(0),
                  "hdrm::topk: expected two tables of one width and dtype, and k items");
  const Tensor users = torch::stable::contiguous(users_), items = torch::stable::contiguous(items_);
  const std::int64_t num_users = users.size(0), num_items = items.size(0), width = users.size(1);
  if (rowptr) {
    STD_TORCH_CHECK(rowptr->numel() == num_users + 1 && col,
                    "hdrm::topk: exclude must have one row per user");
    *rowptr = torch::stable::contiguous(*rowptr);
    *col = torch::stable::contiguous(*col);
  }
  const Tensor distance = torch::stable::new_empty(users, {num_users, k});
  const Tensor index = torch::stable::new_empty(users, {num_users, k}, ScalarType::Long);
  // x0·y0 − xs·ys as one product: the users' time coordinate changes its sign, the result too.
  const Tensor flipped = run_row_kernel<1>(cpu::project, {users}, Result::kRows, c)[0];
  const Tensor lifted = run_row_kernel<1>(cpu::project, {items}, Result::kRows, c)[0];
  const Tensor columns = torch::stable::transpose(lifted, 0, 1);
  const Tensor time = torch::stable::contiguous(torch::stable::select(lifted, 1, 0));
  by_type(users, [&]<class T>(T) {
    const cpu::TopK<T> t{read<T>(users), read<T>(items), num_items, static_cast<int>(width),
                         rowptr ? read<std::int64_t>(*rowptr) : nullptr,
                         rowptr ? read<std::int32_t>(*col) : nullptr, offset, k, Space<T>(c, 0)};
    T* row = write<T>(flipped);
    for (std::int64_t i = 0; i < num_users * width; ++i) {
      if (i % width != 0) row[i] = -row[i];
    }
    const std::int64_t block = std::max<std::int64_t>(1, kScores / std::max<std::int64_t>(1, num_items));
    for (std::int64_t first = 0; first < num_users; first += block) {
      const std::int64_t count = std::min(block, num_users - first);
      Tensor part = flipped;
      part = torch::stable::narrow(part, 0, first, count);
      const Tensor scores = torch::stable::matmul(part, columns);
      torch::stable::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
        cpu::topk_rows(t, first, first + begin, first + end, write<T>(scores), read<T>(time),
                       write<T>(distance), write<std::int64_t>(index));
      });
    }
  });
  return {distance, index};
}

Tensor sample_negatives(const Tensor& users_, const Tensor& rowptr_, const Tensor& col_,
                        std::int64_t offset, std::int64_t num_items, std::int64_t num,
                        const Tensor& seed) {
  STD_TORCH_CHECK(users_.scalar_type() == ScalarType::Long &&
                      rowptr_.scalar_type() == ScalarType::Long && rowptr_.numel() >= 1 &&
                      col_.scalar_type() == ScalarType::Int && num >= 1,
                  "hdrm::sample_negatives: expected int64 users and rowptr, an int32 col, num ≥ 1");
  check_seed(seed);
  const Tensor users = torch::stable::contiguous(users_);
  const Tensor rowptr = torch::stable::contiguous(rowptr_), col = torch::stable::contiguous(col_);
  const Tensor out = torch::stable::new_empty(users, {users.numel(), num});
  cpu::sample_negatives(torch_threads(),
                        {read<std::int64_t>(users), users.numel(), read<std::int64_t>(rowptr),
                         rowptr.numel() - 1, read<std::int32_t>(col), col.numel(), offset,
                         num_items, num, *read<std::int64_t>(seed)},
                        write<std::int64_t>(out));
  return out;
}

// Riemannian step ---------------------------------------------------------------------------------

// Runs step(begin, end, T()) over the rows of x.
template <class F>
void step_rows(const Tensor& x, const Tensor& grad, F step) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous() && grad.numel() == x.numel() &&
                      grad.scalar_type() == x.scalar_type(),
                  "hdrm: an optimiser step needs a contiguous table and a gradient like it");
  by_type(x, [&]<class T>(T) {
    torch::stable::parallel_for(0, x.size(0), rows_per_thread(x.size(1)),
                                [&](std::int64_t begin, std::int64_t end) { step(begin, end, T()); });
  });
}

void check_moment(const Tensor& x, const Tensor& moment, std::int64_t numel) {
  STD_TORCH_CHECK(moment.is_contiguous() && moment.numel() == numel &&
                      moment.scalar_type() == x.scalar_type(),
                  "hdrm: an optimiser's state must be contiguous and match the table");
}

void riemannian_sgd_step(Tensor x, const Tensor& grad_, std::optional<Tensor> moment, double lr,
                         double momentum, double dampening, double weight_decay, bool nesterov,
                         double c) {
  const Tensor grad = torch::stable::contiguous(grad_);
  if (moment) check_moment(x, *moment, x.numel());
  step_rows(x, grad, [&]<class T>(std::int64_t begin, std::int64_t end, T) {
    const SgdOptions<T> options{T(lr), T(momentum), T(dampening), T(weight_decay), nesterov};
    cpu::sgd_rows(Space<T>(c, 0), options, write<T>(x), read<T>(grad),
                  moment ? write<T>(*moment) : nullptr, static_cast<int>(x.size(1)), begin, end);
  });
}

void riemannian_adam_step(Tensor x, const Tensor& grad_, Tensor moment, Tensor second, double lr,
                          double beta1, double beta2, double eps, double weight_decay,
                          double correction1, double correction2, double c) {
  const Tensor grad = torch::stable::contiguous(grad_);
  check_moment(x, moment, x.numel());
  check_moment(x, second, x.size(0));
  step_rows(x, grad, [&]<class T>(std::int64_t begin, std::int64_t end, T) {
    const AdamOptions<T> options{T(lr),           T(beta1),       T(beta2),      T(eps),
                                 T(weight_decay), T(correction1), T(correction2)};
    cpu::adam_rows(Space<T>(c, 0), options, write<T>(x), read<T>(grad), write<T>(moment),
                   write<T>(second), static_cast<int>(x.size(1)), begin, end);
  });
}

STABLE_TORCH_LIBRARY_IMPL(hdrm, CPU, m) {
  m.impl("propagate", TORCH_BOX(&propagate));
  m.impl("propagate_backward", TORCH_BOX(&propagate_backward));
  m.impl("topk", TORCH_BOX(&topk));
  m.impl("sample_negatives", TORCH_BOX(&sample_negatives));
  m.impl("riemannian_sgd_step_", TORCH_BOX(&riemannian_sgd_step));
  m.impl("riemannian_adam_step_", TORCH_BOX(&riemannian_adam_step));
  HDRM_ROWS(expmap0, 1);
  HDRM_GRADIENTS(expmap0_backward, 2, 1);
  HDRM_ROWS(logmap0, 1);
  HDRM_GRADIENTS(logmap0_backward, 2, 1);
  HDRM_ROWS(project, 1);
  HDRM_GRADIENTS(project_backward, 2, 1);
  HDRM_ROWS(project_tangent, 2);
  HDRM_GRADIENTS(project_tangent_backward, 3, 2);
  HDRM_ROWS(expmap, 2);
  HDRM_GRADIENTS(expmap_backward, 3, 2);
  HDRM_ROWS(logmap, 2);
  HDRM_GRADIENTS(logmap_backward, 3, 2);
  HDRM_ROWS(transport, 3);
  HDRM_GRADIENTS(transport_backward, 4, 3);
  HDRM_ROWS(egrad2rgrad, 2);
  HDRM_GRADIENTS(egrad2rgrad_backward, 3, 2);
  HDRM_NUMBERS(distance, 2);
  HDRM_GRADIENTS(distance_backward, 3, 2);
  HDRM_NUMBERS(sqdist, 2);
  HDRM_GRADIENTS(sqdist_backward, 3, 2);
  HDRM_NUMBERS(sqdist0, 2);
  HDRM_GRADIENTS(sqdist0_backward, 3, 2);
  HDRM_ROW_OP(margin_ranking, 3, 1, kNumberPerRow, call_with_margin);
  HDRM_ROW_OP(margin_ranking_backward, 4, 3, kGradients, call_with_margin);
}

}  // namespace
}  // namespace hdrm
