#include "ops/noising.h"

#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "binding/binding.h"

namespace hdrm::binding {
namespace {

// The tensor, contiguous, if it has `numel` elements of the given type.
Tensor fit(const char* name, const Tensor& tensor, std::int64_t numel, ScalarType type) {
  STD_TORCH_CHECK(tensor.numel() == numel && tensor.scalar_type() == type, "hdrm: ", name,
                  " of a noise op must have ", numel, " elements of type ", type, ", got ",
                  tensor.numel(), " of type ", tensor.scalar_type());
  return without_gaps(tensor);
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

// From which the rows' levels are made, as the op gets it.
struct Steps {
  const Tensor &t, &alpha_bar;
  double growth, root_c;
};

// Steps on the host are looked at: a caller learns of a wrong one.
template <class Device>
void check_steps(const Tensor& t, std::int64_t num_steps) {
  if constexpr (Device::kHost) {
    const auto* step = read<std::int64_t>(t);
    for (std::int64_t row = 0; row < t.numel(); ++row) {
      if (0 <= step[row] && step[row] < num_steps) continue;
      throw std::runtime_error("hdrm: t must hold steps from 0 to " + std::to_string(num_steps - 1) +
                               ", got " + std::to_string(step[row]) + " in row " +
                               std::to_string(row));
    }
  }
}

// The seed, and the number of the first of the rows that noise is drawn for.
struct Draws {
  const Tensor& seed;
  std::int64_t first_row;
};

// Indices of Philox are kept in int64.
void check_draws(const Draws& draws, std::int64_t rows, int width) {
  check_seed(draws.seed);
  const std::int64_t most = std::numeric_limits<std::int64_t>::max() / quads(width) - rows;
  STD_TORCH_CHECK(0 <= draws.first_row && draws.first_row <= most,
                  "hdrm: first_row of a noise op must be from 0 to ", most, ", got ",
                  draws.first_row);
}

// What a schedule is read from, contiguous.
template <class Device>
struct ScheduleOf {
  Tensor t, alpha_bar;
  Schedule schedule;

  ScheduleOf(const Steps& steps, std::int64_t rows)
      : t(fit("t", steps.t, rows, ScalarType::Long)),
        alpha_bar(fit("alpha_bar", steps.alpha_bar, steps.alpha_bar.numel(), ScalarType::Double)),
        schedule{read<std::int64_t>(t), read<double>(alpha_bar), alpha_bar.numel(), steps.growth,
                 steps.root_c} {
    check_steps<Device>(t, schedule.steps);
  }
};

// Calls f with what a noise op reads; mean and std are null for isotropic noise.
template <class Device, class F>
void with_noising(const Tensor& z0_, const Tensor* mean_, const Tensor* std_, const Steps& steps,
                  const Draws& draws, F f) {
  const int width = check_table(z0_);
  const std::int64_t rows = z0_.size(0);
  check_draws(draws, rows, width);
  const ScalarType type = arithmetic(z0_);
  const Tensor z0 = without_gaps(z0_);
  const ScheduleOf<Device> of(steps, rows);
  const Tensor mean = mean_ ? fit("mean", *mean_, width, type) : z0;
  const Tensor std = std_ ? fit("std", *std_, width, type) : z0;
  by_storage(z0, [&]<class S>(S) {
    using T = Arithmetic<S>;
    f(Noising<S>{read<S>(z0), mean_ ? read<T>(mean) : nullptr, std_ ? read<T>(std) : nullptr,
                  of.schedule, read<std::int64_t>(draws.seed), draws.first_row, rows, width});
  });
}

template <class Device>
Tensor directional_noise(const Tensor& z0, const Tensor& mean, const Tensor& std, const Tensor& t,
                         const Tensor& alpha_bar, const Tensor& seed, double growth, double root_c,
                         std::int64_t first_row) {
  Device device(z0, mean, std, t, alpha_bar, seed);
  const Tensor out = like(z0);
  with_noising<Device>(z0, &mean, &std, {t, alpha_bar, growth, root_c}, {seed, first_row},
                       [&]<class S>(const Noising<S>& in) {
    hdrm::add_noise(device.on(), in, write<S>(out));
  });
  return out;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> directional_noise_backward(
    const Tensor& grad, const Tensor& z0, const Tensor& mean, const Tensor& std, const Tensor& t,
    const Tensor& alpha_bar, const Tensor& seed, double growth, double root_c,
    std::int64_t first_row) {
  Device device(z0, grad, mean, std, t, alpha_bar, seed);
  check_table(z0);
  const Tensor g = fit("the gradient", grad, z0.numel(), z0.scalar_type()), gz0 = like(z0);
  const Tensor gmean = column_vector(z0), gstd = column_vector(z0);
  with_noising<Device>(z0, &mean, &std, {t, alpha_bar, growth, root_c}, {seed, first_row},
                       [&]<class S>(const Noising<S>& in) {
    using T = Arithmetic<S>;
    hdrm::directional_noise_backward(device.on(), in, read<S>(g), write<S>(gz0), write<T>(gmean),
                                     write<T>(gstd));
  });
  return {gz0, gmean, gstd};
}

template <class Device>
Tensor isotropic_noise(const Tensor& z0, const Tensor& t, const Tensor& alpha_bar,
                       const Tensor& seed, double growth, double root_c,
                       std::int64_t first_row) {
  Device device(z0, t, alpha_bar, seed);
  const Tensor out = like(z0);
  with_noising<Device>(z0, nullptr, nullptr, {t, alpha_bar, growth, root_c}, {seed, first_row},
                       [&]<class S>(const Noising<S>& in) {
    hdrm::add_noise(device.on(), in, write<S>(out));
  });
  return out;
}

template <class Device>
Tensor isotropic_noise_backward(const Tensor& grad, const Tensor& t, const Tensor& alpha_bar,
                                double growth, double root_c) {
  Device device(grad, t, alpha_bar);
  const int width = check_table(grad);
  const std::int64_t rows = grad.size(0);
  const Tensor g = without_gaps(grad), gz0 = like(grad);
  const ScheduleOf<Device> of({t, alpha_bar, growth, root_c}, rows);
  by_storage(g, [&]<class S>(S) {
    hdrm::isotropic_noise_backward(device.on(), of.schedule, read<S>(g), rows, width, write<S>(gz0));
  });
  return gz0;
}

template <class Device>
std::tuple<Tensor, Tensor> column_statistics(const Tensor& z0_) {
  Device device(z0_);
  const int width = check_table(z0_);
  STD_TORCH_CHECK(z0_.size(0) > 0, "hdrm::column_statistics: expected a table with rows, got none");
  const Tensor z0 = without_gaps(z0_);
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
  const Tensor z0 = without_gaps(z0_), gz0 = like(z0);
  const Tensor gmean = fit("mean's gradient", gmean_, width, arithmetic(z0));
  const Tensor gstd = fit("std's gradient", gstd_, width, arithmetic(z0));
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
