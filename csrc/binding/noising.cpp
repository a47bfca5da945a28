#include "ops/noising.h"

#include <tuple>

#include "binding/binding.h"

namespace hdrm::binding {
namespace {

// The tensor, contiguous, if it has `numel` elements of the given type.
Tensor fit(const Tensor& tensor, std::int64_t numel, ScalarType type) {
  STD_TORCH_CHECK(tensor.numel() == numel && tensor.scalar_type() == type,
                  "hdrm: the tensors of a noise op must fit z0: expected ", numel,
                  " elements, got ", tensor.numel(),
                  ", or the dtype differs (z0's for gradients of tables, else the arithmetic's)");
  return torch::stable::contiguous(tensor);
}

int check_table(const Tensor& z0) {
  STD_TORCH_CHECK(z0.dim() == 2, "hdrm: a noise op takes a table (rows, d+1), got ", z0.dim(),
                  " dimensions");
  return width_of(z0);
}

Tensor like(const Tensor& z0) { return new_result(z0, z0.sizes(), z0.scalar_type()); }
Tensor column_vector(const Tensor& z0) {
  return new_result(z0, {z0.size(1)}, arithmetic(z0));
}

// Calls f with what a noise op reads; mean and std are null for isotropic noise.
template <class F>
void with_noising(const Tensor& z0_, const Tensor* mean_, const Tensor* std_, const Tensor& signal_,
                  const Tensor& noise_, const Tensor& seed, F f) {
  const int width = check_table(z0_);
  check_seed(seed);
  const std::int64_t rows = z0_.size(0);
  const ScalarType type = arithmetic(z0_);
  const Tensor z0 = torch::stable::contiguous(z0_);
  const Tensor signal = fit(signal_, rows, type), noise = fit(noise_, rows, type);
  const Tensor mean = mean_ ? fit(*mean_, width, type) : z0;
  const Tensor std = std_ ? fit(*std_, width, type) : z0;
  by_storage(z0, [&]<class S>(S) {
    using T = Arithmetic<S>;
    f(Noising<S>{read<S>(z0), mean_ ? read<T>(mean) : nullptr, std_ ? read<T>(std) : nullptr,
                  read<T>(signal), read<T>(noise), read<std::int64_t>(seed), rows, width});
  });
}

template <class Device>
Tensor directional_noise(const Tensor& z0, const Tensor& mean, const Tensor& std,
                         const Tensor& signal, const Tensor& noise, const Tensor& seed) {
  Device device(z0, mean, std, signal, noise, seed);
  const Tensor out = like(z0);
  with_noising(z0, &mean, &std, signal, noise, seed, [&]<class S>(const Noising<S>& in) {
    hdrm::add_noise(device.on(), in, write<S>(out));
  });
  return out;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> directional_noise_backward(
    const Tensor& grad, const Tensor& z0, const Tensor& mean, const Tensor& std,
    const Tensor& signal, const Tensor& noise, const Tensor& seed) {
  Device device(z0, grad, mean, std, signal, noise, seed);
  check_table(z0);
  const Tensor g = fit(grad, z0.numel(), z0.scalar_type()), gz0 = like(z0);
  const Tensor gmean = column_vector(z0), gstd = column_vector(z0);
  with_noising(z0, &mean, &std, signal, noise, seed, [&]<class S>(const Noising<S>& in) {
    using T = Arithmetic<S>;
    hdrm::directional_noise_backward(device.on(), in, read<S>(g), write<S>(gz0), write<T>(gmean),
                                     write<T>(gstd));
  });
  return {gz0, gmean, gstd};
}

template <class Device>
Tensor isotropic_noise(const Tensor& z0, const Tensor& signal, const Tensor& noise,
                       const Tensor& seed) {
  Device device(z0, signal, noise, seed);
  const Tensor out = like(z0);
  with_noising(z0, nullptr, nullptr, signal, noise, seed, [&]<class S>(const Noising<S>& in) {
    hdrm::add_noise(device.on(), in, write<S>(out));
  });
  return out;
}

template <class Device>
Tensor isotropic_noise_backward(const Tensor& grad, const Tensor& z0, const Tensor& signal,
                                const Tensor& noise, const Tensor& seed) {
  Device device(z0, grad, signal, noise, seed);
  const Tensor g = fit(grad, z0.numel(), z0.scalar_type()), gz0 = like(z0);
  with_noising(z0, nullptr, nullptr, signal, noise, seed, [&]<class S>(const Noising<S>& in) {
    hdrm::isotropic_noise_backward(device.on(), in, read<S>(g), write<S>(gz0));
  });
  return gz0;
}

template <class Device>
std::tuple<Tensor, Tensor> column_statistics(const Tensor& z0_) {
  Device device(z0_);
  const int width = check_table(z0_);
  STD_TORCH_CHECK(z0_.size(0) > 0, "hdrm::column_statistics: expected a table with rows, got none");
  const Tensor z0 = torch::stable::contiguous(z0_);
  const Tensor mean = column_vector(z0), std = column_vector(z0);
  by_storage(z0, [&]<class S>(S) {
    using T = Arithmetic<S>;
    hdrm::column_statistics(device.on(), read<S>(z0), z0.size(0), width, write<T>(mean),
                            write<T>(std));
  });
  return {mean, std};
}

template <class Device>
Tensor column_statistics_backward(const Tensor& gmean_, const Tensor& gstd_, const Tensor& z0_) {
  Device device(z0_, gmean_, gstd_);
  const int width = check_table(z0_);
  const Tensor z0 = torch::stable::contiguous(z0_), gz0 = like(z0);
  const Tensor gmean = fit(gmean_, width, arithmetic(z0)), gstd = fit(gstd_, width, arithmetic(z0));
  by_storage(z0, [&]<class S>(S) {
    using T = Arithmetic<S>;
    hdrm::column_statistics_backward(device.on(), read<T>(gmean), read<T>(gstd), read<S>(z0),
                                     z0.size(0), width, write<S>(gz0));
  });
  return gz0;
}

template <class Device>
void noise(Library& m) {
  m.impl("directional_noise", TORCH_BOX(&directional_noise<Device>));
  m.impl("directional_noise_backward", TORCH_BOX(&directional_noise_backward<Device>));
  m.impl("isotropic_noise", TORCH_BOX(&isotropic_noise<Device>));
  m.impl("isotropic_noise_backward", TORCH_BOX(&isotropic_noise_backward<Device>));
  m.impl("column_statistics", TORCH_BOX(&column_statistics<Device>));
  m.impl("column_statistics_backward", TORCH_BOX(&column_statistics_backward<Device>));
}

HDRM_REGISTER(noise)

}  // namespace
}  // namespace hdrm::binding
