// The optimisers' steps of csrc/cuda, run by the emulator, against csrc/cpu in double:
// `riemannian_step OPTIMISER` runs rows of every width class, aligned and not.
#include "ops/riemannian_step.h"

#include "driver.h"

namespace {

using namespace hdrm;
using namespace cuda_on_cpu;

#if defined(__SANITIZE_THREAD__)  // slow: one width for each kind of team, two blocks
constexpr int kWidths[] = {33, 100, 201, 516};
#else
constexpr int kWidths[] = {2, 3, 33, 64, 65, 100, 128, 129, 512, 513, 516, 1040};
#endif

template <class T>
struct Step {
  std::vector<T> x, grad, moment, second;
};

template <class T, class On>
void step(const std::string& optimiser, const On& on, Step<T>& s, int width, std::size_t offset) {
  const auto rows = static_cast<std::int64_t>(s.second.size());
  Buffer<T> x(s.x, offset), grad(s.grad, offset), moment(s.moment, offset), second(s.second, 0);
  const Space<T> space(0.7, 0);
  if (optimiser == "adam") {
    const AdamOptions<T> options{T(0.1), T(0.9), T(0.999), T(1e-8), T(0.01), T(0.1), T(0.001)};
    adam_step(on, space, options, x.data(), grad.data(), moment.data(), second.data(), rows, width);
  } else {
    const bool nesterov = optimiser == "nesterov";
    const T momentum = optimiser == "plain" ? 0 : T(0.9);
    const SgdOptions<T> options{T(0.1), momentum, nesterov ? T(0) : T(0.1), T(0.01), nesterov};
    sgd_step(on, space, options, x.data(), grad.data(), momentum > 0 ? moment.data() : nullptr,
             rows, width);
  }
  s = {x.values(), grad.values(), moment.values(), second.values()};
}

template <class T>
void compare(const std::string& optimiser, int width, std::size_t offset, Verdict& verdict) {
  const std::int64_t rows = width > 128 ? 3 : 19;  // more than two blocks take at once
  std::minstd_rand random(width);
  const auto table = [&] { return normal_table<T>(random, rows, width); };
  Step<T> found{table(), table(), table(), std::vector<T>(rows, T(0.5))};
  for (std::int64_t row = 0; row < rows; ++row) {  // on the hyperboloid
    T square = T(1 / 0.7);
    for (int i = 1; i < width; ++i) square += found.x[row * width + i] * found.x[row * width + i];
    found.x[row * width] = std::sqrt(square);
  }
  Step<double> expected{widened(found.x), widened(found.grad), widened(found.moment),
                        widened(found.second)};
  const Device device;
  step(optimiser, device.stream, found, width, offset);
  step(optimiser, kSerial, expected, width, 0);
  verdict.compare(optimiser + ", point", found.x, expected.x, width);
  verdict.compare(optimiser + ", moment", found.moment, expected.moment, width);
  verdict.compare(optimiser + ", second", found.second, expected.second, 1);
}

}  // namespace

int main(int, char** arguments) {
  Verdict verdict;
  for (const int width : kWidths) {
    for (const std::size_t offset : {0, 1}) {
      compare<float>(arguments[1], width, offset, verdict);
#if !defined(__SANITIZE_THREAD__)
      compare<double>(arguments[1], width, offset, verdict);
#endif
    }
  }
  return verdict.print();
}
