// Registers the noise ops with torch.
#include <tuple>

#include "binding.h"
#include "cpu/noising.h"

namespace hdrm {
namespace {

// The tensor, contiguous, if it has `numel` elements of z0's type.
Tensor fit(const Tensor& tensor, const Tensor& z0, std::int64_t numel) {
  STD_TORCH_CHECK(tensor.numel() == numel && tensor.scalar_type() == z0.scalar_type(),
                  "hdrm: the tensors of a noise op must fit z0 in size and dtype");
  return torch::stable::contiguous(tensor);
}

// Calls f with what a noise op reads; mean and std are null for isotropic noise.
template <class F>
void with_noising(const Tensor& z0_, const Tensor* mean_, const Tensor* std_, const Tensor& signal_,
                  const Tensor& noise_, const Tensor& seed, F f) {
  STD_TORCH_CHECK(z0_.dim() == 2 && z0_.size(1) > 0, "hdrm: noise is added to a table (rows, d+1)");
  check_seed(seed);
  const std::int64_t rows = z0_.size(0), width = z0_.size(1);
  const Tensor z0 = torch::stable::contiguous(z0_);
  const Tensor signal = fit(signal_, z0, rows), noise = fit(noise_, z0, rows);
  const Tensor mean = mean_ ? fit(*mean_, z0, width) : z0, std = std_ ? fit(*std_, z0, width) : z0;
  by_type(z0, [&]<class T>(T) {
    f(cpu::Noising<T>{read<T>(z0), mean_ ? read<T>(mean) : nullptr, std_ ? read<T>(std) : nullptr,
                      read<T>(signal), read<T>(noise), *read<std::int64_t>(seed), rows,
                      static_cast<int>(width)});
  });
}

Tensor like(const Tensor& z0) { return torch::stable::new_empty(z0, z0.sizes()); }
Tensor column_vector(const Tensor& z0) { return torch::stable::new_empty(z0, {z0.size(1)}); }

Tensor directional_noise(const Tensor& z0, const Tensor& mean, const Tensor& std,
                         const Tensor& signal, const Tensor& noise, const Tensor& seed) {
  const Tensor out = like(z0);
  with_noising(z0, &mean, &std, signal, noise, seed, [&]<class T>(const cpu::Noising<T>& in) {
    cpu::add_noise(torch_threads(), in, write<T>(out));
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> directional_noise_backward(
    const Tensor& grad, const Tensor& z0, const Tensor& mean, const Tensor& std,
    const Tensor& signal, const Tensor& noise, const Tensor& seed) {
  const Tensor g = fit(grad, z0, z0.numel()), gz0 = like(z0);
  const Tensor gmean = column_vector(z0), gstd = column_vector(z0);
  with_noising(z0, &mean, &std, signal, noise, seed, [&]<class T>(const cpu::Noising<T>& in) {
    cpu::directional_noise_backward(torch_threads(), in, read<T>(g), write<T>(gz0),
                                    write<T>(gmean), write<T>(gstd));
  });
  return {gz0, gmean, gstd};
}

Tensor isotropic_noise(const Tensor& z0, const Tensor& signal, const Tensor& noise,
                       const Tensor& seed) {
  const Tensor out = like(z0);
  with_noising(z0, nullptr, nullptr, signal, noise, seed, [&]<class T>(const cpu::Noising<T>& in) {
    cpu::add_noise(torch_threads(), in, write<T>(out));
  });
  return out;
}

Tensor isotropic_noise_backward(const Tensor& grad, const Tensor& z0, const Tensor& signal,
                                const Tensor& noise, const Tensor& seed) {
  const Tensor g = fit(grad, z0, z0.numel()), gz0 = like(z0);
  with_noising(z0, nullptr, nullptr, signal, noise, seed, [&]<class T>(const cpu::Noising<T>& in) {
    cpu::isotropic_noise_backward(torch_threads(), in, read<T>(g), write<T>(gz0));
  });
  return gz0;
}

std::tuple<Tensor, Tensor> column_statistics(const Tensor& z0_) {
  STD_TORCH_CHECK(z0_.dim() == 2 && z0_.size(0) > 0 && z0_.size(1) > 0,
                  "hdrm::column_statistics: expected a table with rows");
  const Tensor z0 = torch::stable::contiguous(z0_);
  const Tensor mean = column_vector(z0), std = column_vector(z0);
  by_type(z0, [&]<class T>(T) {
    cpu::column_statistics(torch_threads(), read<T>(z0), z0.size(0), static_cast<int>(z0.size(1)),
                           write<T>(mean), write<T>(std));
  });
  return {mean, std};
}

Tensor column_statistics_backward(const Tensor& gmean_, const Tensor& gstd_, const Tensor& z0_) {
  const Tensor z0 = torch::stable::contiguous(z0_), gz0 = like(z0);
  const Tensor gmean = fit(gmean_, z0, z0.size(1)), gstd = fit(gstd_, z0, z0.size(1));
  by_type(z0, [&]<class T>(T) {
    cpu::column_statistics_backward(torch_threads(), read<T>(gmean), read<T>(gstd), read<T>(z0),
                                    z0.size(0), static_cast<int>(z0.size(1)), write<T>(gz0));
  });
  return gz0;
}

STABLE_TORCH_LIBRARY_IMPL(hdrm, CPU, m) {
  m.impl("directional_noise", TORCH_BOX(&directional_noise));
  m.impl("directional_noise_backward", TORCH_BOX(&directional_noise_backward));
  m.impl("isotropic_noise", TORCH_BOX(&isotropic_noise));
  m.impl("isotropic_noise_backward", TORCH_BOX(&isotropic_noise_backward));
  m.impl("column_statistics", TORCH_BOX(&column_statistics));
  m.impl("column_statistics_backward", TORCH_BOX(&column_statistics_backward));
}

}  // namespace
}  // namespace hdrm
