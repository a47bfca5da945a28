#include "ops/riemannian_step.h"

#include "binding/binding.h"

namespace hdrm::binding {
namespace {

void check_table(const Tensor& x, const Tensor& grad) {
  STD_TORCH_CHECK(x.dim() == 2 && x.is_contiguous() && grad.numel() == x.numel() &&
                      grad.scalar_type() == x.scalar_type(),
                  "hdrm: an optimiser step needs a contiguous table and a gradient like it");
}

void check_moment(const Tensor& x, const Tensor& moment, std::int64_t numel) {
  STD_TORCH_CHECK(moment.is_contiguous() && moment.numel() == numel &&
                      moment.scalar_type() == x.scalar_type(),
                  "hdrm: an optimiser's state must be contiguous and match the table");
}

template <class Device>
void riemannian_sgd_step(Tensor x, const Tensor& grad_, std::optional<Tensor> moment, double lr,
                         double momentum, double dampening, double weight_decay, bool nesterov,
                         double c) {
  Device device(x, grad_, moment);
  const Tensor grad = without_gaps(grad_);
  check_table(x, grad);
  if (moment) check_moment(x, *moment, x.numel());
  const int width = width_of(x);
  by_type(x, [&]<class T>(T) {
    const SgdOptions<T> options{T(lr), T(momentum), T(dampening), T(weight_decay), nesterov};
    sgd_step(device.on(), Space<T>(c, 0), options, write<T>(x), read<T>(grad),
             moment ? write<T>(*moment) : nullptr, x.size(0), width);
  });
}

template <class Device>
void riemannian_adam_step(Tensor x, const Tensor& grad_, Tensor moment, Tensor second, double lr,
                          double beta1, double beta2, double eps, double weight_decay,
                          double correction1, double correction2, double c) {
  Device device(x, grad_, moment, second);
  const Tensor grad = without_gaps(grad_);
  check_table(x, grad);
  check_moment(x, moment, x.numel());
  check_moment(x, second, x.size(0));
  const int width = width_of(x);
  by_type(x, [&]<class T>(T) {
    const AdamOptions<T> options{T(lr),           T(beta1),       T(beta2),      T(eps),
                                 T(weight_decay), T(correction1), T(correction2)};
    adam_step(device.on(), Space<T>(c, 0), options, write<T>(x), read<T>(grad), write<T>(moment),
              write<T>(second), x.size(0), width);
  });
}

template <class Device>
void steps(Library& m) {
  m.impl("riemannian_sgd_step_", TORCH_BOX(&riemannian_sgd_step<Device>));
  m.impl("riemannian_adam_step_", TORCH_BOX(&riemannian_adam_step<Device>));
}

HDRM_REGISTER(steps)

}  // namespace
}  // namespace hdrm::binding
