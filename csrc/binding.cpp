// Registers the kernels of rows, message passing, ranking and optimiser steps with torch.
#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <span>
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
  kRows,               // rows like the inputs, in the dtype of the arithmetic
  kNumberPerRow,       // one number per row
  kGradients,          // rows like the last inputs, each in its dtype; the first input is rows
  kGradientsOfNumber,  // the same, but the first input has one number per row
};

// Tensors of shape (..., d+1), or (...) where a row op has one number per row; all other dimensions
// agree. Everything runs over (rows, width), in double if the first tensor is, else in float, to
// which tensors of 16 bits are widened.
template <std::size_t kIn>
std::vector<Tensor> run_row_kernel(const cpu::RowKernel& kernel, std::array<Tensor, kIn> in,
                                   Result result, double c, double margin = 0) {
  const Tensor& full = in.back();
  const int width = width_of(full);
  const std::int64_t rows = full.numel() / width;
  const std::vector<std::int64_t> sizes(full.sizes().begin(), full.sizes().end());
  const ScalarType type = arithmetic(in[0]);
  const bool is_double = type == ScalarType::Double;
  cpu::RowArguments arguments{};
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
    in[k] = torch::stable::contiguous(in[k]);
    arguments.in[k] = {const_cast<void*>(in[k].const_data_ptr()), stride, storage};
  }
  const bool numbers = result == Result::kNumberPerRow;
  const torch::headeronly::IntHeaderOnlyArrayRef shape(sizes.data(), sizes.size() - numbers);
  std::vector<Tensor> out;
  for (int k = 0; k < kernel.num_out; ++k) {
    const bool like_input = result == Result::kGradients || result == Result::kGradientsOfNumber;
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
#define HDRM_NUMBER_GRADIENTS(name, in, out) HDRM_ROW_OP(name, in, out, kGradientsOfNumber, call)

// Refuses index arrays that a kernel would follow out of memory: one pass over them.
void check_csr(const Tensor& rowptr, const Tensor& col, std::int64_t num_rows, std::int64_t offset,
               std::int64_t num_cols) {
  STD_TORCH_CHECK(rowptr.scalar_type() == ScalarType::Long && col.scalar_type() == ScalarType::Int,
                  "hdrm: a CSR needs an int64 rowptr and an int32 col");
  STD_TORCH_CHECK(rowptr.numel() == num_rows + 1 && offset >= 0, "hdrm: rowptr must have ",
                  num_rows + 1, " entries, one more than rows, got ", rowptr.numel());
  const auto* edge = read<std::int64_t>(rowptr);
  bool ascends = edge[0] >= 0 && edge[num_rows] <= col.numel();
  for (std::int64_t i = 0; i < num_rows; ++i) ascends &= edge[i] <= edge[i + 1];
  STD_TORCH_CHECK(ascends, "hdrm: rowptr must ascend from 0 or more to at most ", col.numel(),
                  ", the length of col");
  std::atomic<bool> inside = true;
  torch::stable::parallel_for(edge[0], edge[num_rows], kGrain,
                              [&](std::int64_t begin, std::int64_t end) {
    const auto* c = read<std::int32_t>(col);
    std::int32_t low = std::numeric_limits<std::int32_t>::max(), high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (std::int64_t e = begin; e < end; ++e) {
      low = std::min(low, c[e]);
      high = std::max(high, c[e]);
    }
    if (low < offset || high - offset >= num_cols) inside = false;
  });
  STD_TORCH_CHECK(inside, "hdrm: col must hold numbers from ", offset, " to ",
                  offset + num_cols - 1);
}

// Message passing ---------------------------------------------------------------------------------

// grad is missing in the forward direction.
Tensor run_propagation(std::optional<Tensor> grad, Tensor x, Tensor rowptr, Tensor col,
                       std::int64_t num_layers, double c, bool lorentz, bool symmetric, bool mean) {
  STD_TORCH_CHECK(x.dim() == 2 && num_layers >= 1,
                  "hdrm::propagate: expected a table x (nodes, d+1) and at least one layer");
  const int width = width_of(x);
  const ScalarType type = arithmetic(x);
  STD_TORCH_CHECK(!lorentz || x.scalar_type() == type,
                  "hdrm::propagate: points must be float32 or float64");
  x = torch::stable::contiguous(x);
  rowptr = torch::stable::contiguous(rowptr);
  col = torch::stable::contiguous(col);
  check_csr(rowptr, col, x.size(0), 0, x.size(0));
  if (grad) {
    STD_TORCH_CHECK(std::ranges::equal(grad->sizes(), x.sizes()) &&
                        grad->scalar_type() == x.scalar_type(),
                    "hdrm::propagate_backward: the gradient must be like x");
    *grad = torch::stable::contiguous(*grad);
  }
  const Tensor out = torch::stable::empty_like(x);
  const auto scratch = [&](torch::headeronly::IntHeaderOnlyArrayRef sizes) {
    return torch::stable::new_empty(x, sizes, type);
  };
  const Tensor factor = scratch({x.size(0)});
  // As cpu::Propagation says: one table of scratch where `out` has the arithmetic's type.
  const auto last = num_layers % 2;
  std::array<Tensor, 2> work{out, out};
  if (num_layers > 1) work[last] = scratch(x.sizes());
  if (num_layers > 2 && x.scalar_type() != type) work[1 - last] = scratch(x.sizes());
  by_storage(x, [&]<class S>(S) {
    using T = Arithmetic<S>;
    const cpu::Propagation<S> p{read<std::int64_t>(rowptr),
                                read<std::int32_t>(col),
                                x.size(0),
                                width,
                                num_layers,
                                lorentz,
                                symmetric,
                                mean,
                                Space<T>(c, 0),
                                write<T>(factor),
                                {write<T>(work[0]), write<T>(work[1])}};
    if (grad) {
      cpu::propagate_backward(torch_threads(), p, read<S>(*grad), read<S>(x), write<S>(out));
    } else {
      cpu::propagate(torch_threads(), p, read<S>(x), write<S>(out));
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
                      users_.scalar_type() == items_.scalar_type() &&
                      users_.scalar_type() == arithmetic(users_),
                  "hdrm::topk: expected two tables of one width, both float32 or both float64");
  const Tensor users = torch::stable::contiguous(users_), items = torch::stable::contiguous(items_);
  const std::int64_t num_users = users.size(0), num_items = items.size(0);
  const int width = width_of(users);
  STD_TORCH_CHECK(1 <= k && k <= num_items, "hdrm::topk: k must be in 1 ... ", num_items,
                  " (items), got ", k);
  STD_TORCH_CHECK(rowptr.has_value() == col.has_value(), "hdrm::topk: rowptr and col go together");
  if (rowptr) {
    *rowptr = torch::stable::contiguous(*rowptr);
    *col = torch::stable::contiguous(*col);
    check_csr(*rowptr, *col, num_users, offset, num_items);
  }
  const Tensor distance = torch::stable::new_empty(users, {num_users, k});
  const Tensor index = torch::stable::new_empty(users, {num_users, k}, ScalarType::Long);
  // x0·y0 − xs·ys as one product: the users' time coordinate changes its sign, the result too.
  const Tensor flipped = run_row_kernel<1>(cpu::project, {users}, Result::kRows, c)[0];
  const Tensor lifted = run_row_kernel<1>(cpu::project, {items}, Result::kRows, c)[0];
  const Tensor columns = torch::stable::transpose(lifted, 0, 1);
  const Tensor time = torch::stable::contiguous(torch::stable::select(lifted, 1, 0));
  by_type(users, [&]<class T>(T) {
    const cpu::TopK<T> t{read<T>(users), read<T>(items), num_items, width,
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
  STD_TORCH_CHECK(users_.dim() == 1 && users_.scalar_type() == ScalarType::Long &&
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

// Runs step(width, begin, end, T()) over the rows of x.
template <class F>
void step_rows(const Tensor& x, const Tensor& grad, F step) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous() && grad.numel() == x.numel() &&
                      grad.scalar_type() == x.scalar_type(),
                  "hdrm: an optimiser step needs a contiguous table and a gradient like it");
  const int width = width_of(x);
  by_type(x, [&]<class T>(T) {
    torch::stable::parallel_for(
        0, x.size(0), rows_per_thread(width),
        [&](std::int64_t begin, std::int64_t end) { step(width, begin, end, T()); });
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
  step_rows(x, grad, [&]<class T>(int width, std::int64_t begin, std::int64_t end, T) {
    const SgdOptions<T> options{T(lr), T(momentum), T(dampening), T(weight_decay), nesterov};
    cpu::sgd_rows(Space<T>(c, 0), options, write<T>(x), read<T>(grad),
                  moment ? write<T>(*moment) : nullptr, width, begin, end);
  });
}

void riemannian_adam_step(Tensor x, const Tensor& grad_, Tensor moment, Tensor second, double lr,
                          double beta1, double beta2, double eps, double weight_decay,
                          double correction1, double correction2, double c) {
  const Tensor grad = torch::stable::contiguous(grad_);
  check_moment(x, moment, x.numel());
  check_moment(x, second, x.size(0));
  step_rows(x, grad, [&]<class T>(int width, std::int64_t begin, std::int64_t end, T) {
    const AdamOptions<T> options{T(lr),           T(beta1),       T(beta2),      T(eps),
                                 T(weight_decay), T(correction1), T(correction2)};
    cpu::adam_rows(Space<T>(c, 0), options, write<T>(x), read<T>(grad), write<T>(moment),
                   write<T>(second), width, begin, end);
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
  HDRM_NUMBER_GRADIENTS(distance_backward, 3, 2);
  HDRM_NUMBERS(sqdist, 2);
  HDRM_NUMBER_GRADIENTS(sqdist_backward, 3, 2);
  HDRM_NUMBERS(sqdist0, 2);
  HDRM_NUMBER_GRADIENTS(sqdist0_backward, 3, 2);
  HDRM_ROW_OP(margin_ranking, 3, 1, kNumberPerRow, call_with_margin);
  HDRM_ROW_OP(margin_ranking_backward, 4, 3, kGradientsOfNumber, call_with_margin);
}

}  // namespace
}  // namespace hdrm
