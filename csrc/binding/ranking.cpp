#include "ops/ranking.h"

#include <optional>
#include <tuple>

#include "binding/csr.h"
#include "binding/row_ops.h"

namespace hdrm::binding {
namespace {

template <class Device>
std::tuple<Tensor, Tensor> topk(const Tensor& users_, const Tensor& items_,
                                std::optional<Tensor> rowptr, std::optional<Tensor> col,
                                std::int64_t offset, std::int64_t k, double c) {
  Device device(users_, items_, rowptr, col);
  STD_TORCH_CHECK(users_.dim() == 2 && items_.dim() == 2 && users_.size(1) == items_.size(1) &&
                      users_.scalar_type() == items_.scalar_type() &&
                      users_.scalar_type() == arithmetic(users_),
                  "hdrm::topk: expected two tables of one width, both float32 or both float64");
  const Tensor users = without_gaps(users_), items = without_gaps(items_);
  const std::int64_t num_users = users.size(0), num_items = items.size(0);
  const int width = width_of(users);
  STD_TORCH_CHECK(1 <= k && k <= num_items, "hdrm::topk: k must be in 1 ... ", num_items,
                  " (items), got ", k);
  STD_TORCH_CHECK(rowptr.has_value() == col.has_value(), "hdrm::topk: rowptr and col go together");
  if (rowptr) {
    *rowptr = without_gaps(*rowptr);
    *col = without_gaps(*col);
    check_csr<Device>(*rowptr, *col, num_users, offset, num_items);
  }
  const Tensor distance = new_result(users, {num_users, k}, users.scalar_type());
  const Tensor index = new_result(users, {num_users, k}, ScalarType::Long);
  by_type(users, [&]<class T>(T) {
    const TopK<T> t{read<T>(users), read<T>(items), num_users, num_items, width,
                    rowptr ? read<std::int64_t>(*rowptr) : nullptr,
                    rowptr ? read<std::int32_t>(*col) : nullptr, offset, k, Space<T>(c, 0)};
    hdrm::topk(device.on(), t, write<T>(distance), write<std::int64_t>(index));
  });
  return {distance, index};
}

template <class Device>
Tensor sample_negatives(const Tensor& users_, const Tensor& rowptr_, const Tensor& col_,
                        std::int64_t offset, std::int64_t num_items, std::int64_t num,
                        const Tensor& seed) {
  Device device(users_, rowptr_, col_, seed);
  STD_TORCH_CHECK(users_.dim() == 1 && users_.scalar_type() == ScalarType::Long &&
                      rowptr_.scalar_type() == ScalarType::Long && rowptr_.numel() >= 1 &&
                      col_.scalar_type() == ScalarType::Int && num >= 1,
                  "hdrm::sample_negatives: expected int64 users and rowptr, an int32 col, num ≥ 1");
  check_seed(seed);
  const Tensor users = without_gaps(users_);
  const Tensor rowptr = without_gaps(rowptr_), col = without_gaps(col_);
  const Tensor out = new_result(users, {users.numel(), num}, ScalarType::Long);
  hdrm::sample_negatives(
      device.on(),
      {read<std::int64_t>(users), users.numel(), read<std::int64_t>(rowptr), rowptr.numel() - 1,
       read<std::int32_t>(col), col.numel(), offset, num_items, num, read<std::int64_t>(seed)},
      write<std::int64_t>(out));
  return out;
}

template <class Device>
void ranking(Library& m) {
  HDRM_ROW_OP(margin_ranking, 3, 1, kNumberPerRow, call_with_margin);
  HDRM_ROW_OP(margin_ranking_backward, 4, 3, kGradientsOfNumber, call_with_margin);
  m.impl("topk", TORCH_BOX(&topk<Device>));
  m.impl("sample_negatives", TORCH_BOX(&sample_negatives<Device>));
}

HDRM_REGISTER(ranking)

}  // namespace
}  // namespace hdrm::binding
