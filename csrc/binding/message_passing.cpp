#include "ops/message_passing.h"

#include <algorithm>
#include <array>
#include <optional>

#include "binding/csr.h"

namespace hdrm::binding {
namespace {

// grad is missing in the forward direction.
template <class Device>
Tensor run_propagation(std::optional<Tensor> grad, Tensor x, Tensor rowptr, Tensor col,
                       std::int64_t num_layers, double c, bool lorentz, bool symmetric, bool mean,
                       bool narrow) {
  Device device(x, grad, rowptr, col);
  STD_TORCH_CHECK(x.dim() == 2 && num_layers >= 1,
                  "hdrm::propagate: expected a table x (nodes, d+1) and at least one layer");
  const int width = width_of(x);
  const ScalarType type = arithmetic(x);
  STD_TORCH_CHECK(!lorentz || x.scalar_type() == type,
                  "hdrm::propagate: points must be float32 or float64");
  STD_TORCH_CHECK(!narrow || type == ScalarType::Float,
                  "hdrm::propagate: work tables of float64 are not narrow");
  x = without_gaps(x);
  rowptr = without_gaps(rowptr);
  col = without_gaps(col);
  check_csr<Device>(rowptr, col, x.size(0), 0, x.size(0));
  if (grad) {
    STD_TORCH_CHECK(std::ranges::equal(grad->sizes(), x.sizes()) &&
                        grad->scalar_type() == x.scalar_type(),
                    "hdrm::propagate_backward: the gradient must be like x");
    *grad = without_gaps(*grad);
  }
  const Tensor out = new_result(x, x.sizes(), x.scalar_type());
  const Tensor factor = new_result(x, {x.size(0)}, type);
  // As Propagation says: one table of scratch where the other fits in the memory of `out`.
  const auto last = num_layers % 2;
  const auto table = [&] { return new_result(x, x.sizes(), narrow ? ScalarType::BFloat16 : type); };
  std::array<Tensor, 2> work{out, out};
  if (num_layers > 1 || narrow) work[last] = table();
  if (num_layers > 2 && !narrow && x.scalar_type() != type) work[1 - last] = table();
  const auto run = [&]<class S, class W>(S, W) {
    using T = Arithmetic<S>;
    const Propagation<S, W> p{read<std::int64_t>(rowptr),
                              read<std::int32_t>(col),
                              x.size(0),
                              col.numel(),
                              width,
                              num_layers,
                              lorentz,
                              symmetric,
                              mean,
                              Space<T>(c, 0),
                              write<T>(factor),
                              {write<W>(work[0]), write<W>(work[1])}};
    if (grad) {
      hdrm::propagate_backward(device.on(), p, read<S>(*grad), read<S>(x), write<S>(out));
    } else {
      hdrm::propagate(device.on(), p, read<S>(x), write<S>(out));
    }
  };
  by_storage(x, [&]<class S>(S element) {
    if constexpr (sizeof(S) <= sizeof(float)) {
      if (narrow) return run(element, Bfloat16());
    }
    run(element, Arithmetic<S>());
  });
  return out;
}

template <class Device>
Tensor propagate(const Tensor& x, const Tensor& rowptr, const Tensor& col, std::int64_t num_layers,
                 double c, bool lorentz, bool symmetric, bool mean, bool narrow) {
  return run_propagation<Device>(std::nullopt, x, rowptr, col, num_layers, c, lorentz, symmetric,
                                 mean, narrow);
}

template <class Device>
Tensor propagate_backward(const Tensor& grad, const Tensor& x, const Tensor& rowptr,
                          const Tensor& col, std::int64_t num_layers, double c, bool lorentz,
                          bool symmetric, bool mean, bool narrow) {
  return run_propagation<Device>(grad, x, rowptr, col, num_layers, c, lorentz, symmetric, mean,
                                 narrow);
}

template <class Device>
void message_passing(Library& m) {
  m.impl("propagate", TORCH_BOX(&propagate<Device>));
  m.impl("propagate_backward", TORCH_BOX(&propagate_backward<Device>));
}

HDRM_REGISTER(message_passing)

}  // namespace
}  // namespace hdrm::binding
