// The noising kernels of csrc/cuda, run by the emulator, against csrc/cpu in double:
// `noising OP` runs every storage, aligned and not, of widths for one and for several stripes of
// columns, and of rows for one and for several groups.
#include "ops/noising.h"

#include "driver.h"

namespace {

using namespace hdrm;
using namespace cuda_on_cpu;

struct Shape {
  std::int64_t rows;
  int width;
};

#if defined(__SANITIZE_THREAD__)
constexpr Shape kShapes[] = {{1, 33}, {130, 132}, {70, 260}};
#else
constexpr Shape kShapes[] = {{0, 8}, {1, 64}, {2, 33}, {130, 132}, {1100, 2}, {45, 65}, {200, 260}};
#endif

template <class S>
struct Tables {
  using T = Arithmetic<S>;
  std::vector<S> z0, g;
  std::vector<T> mean, std;
  std::vector<std::int64_t> t;
};
const std::vector<double> kAlphaBar{0.9, 0.5, 0.2};

template <class S>
Tables<S> make_tables(const Shape& shape) {
  std::minstd_rand random(shape.width);
  const auto table = [&] { return normal_table<S>(random, shape.rows, shape.width); };
  using T = Arithmetic<S>;
  const auto column = [&](std::int64_t count) { return normal_table<T>(random, count, 1); };
  Tables<S> tables{table(), table(), column(shape.width), column(shape.width), {}};
  for (std::int64_t row = 0; row < shape.rows; ++row) {
    tables.t.push_back(row % static_cast<std::int64_t>(kAlphaBar.size()));
    // A column without spread, and one far off.
    tables.z0[row * shape.width + shape.width - 1] = 3;
    if (sizeof(S) > 2 && shape.width == 65) tables.z0[row * shape.width + 1] = 1000 + row % 3;
  }
  return tables;
}

template <class S>
Tables<double> in_double(const Tables<S>& t) {
  return {widened(t.z0), widened(t.g), widened(t.mean), widened(t.std), t.t};
}

// The results of an op, row by row: a table, then numbers per column.
template <class S>
struct Results {
  std::vector<S> table;
  std::vector<Arithmetic<S>> first, second;
};

template <class S, class On>
Results<S> run(const std::string& op, const On& on, const Tables<S>& tables, const Shape& shape,
               std::size_t offset) {
  using T = Arithmetic<S>;
  Buffer<S> z0(tables.z0, offset), g(tables.g, offset), out(tables.z0.size(), offset);
  Buffer<T> mean(tables.mean, offset), std(tables.std, offset);
  Buffer<std::int64_t> t(tables.t, 0);
  Buffer<double> alpha_bar(kAlphaBar, 0);
  Buffer<T> first(shape.width), second(shape.width);
  const std::int64_t seed = 123456789012345, first_row = std::int64_t(1) << 40;
  const bool directional = op.starts_with("directional");
  const Noising<S> in{z0.data(), directional ? mean.data() : nullptr,
                      directional ? std.data() : nullptr,
                      {t.data(), alpha_bar.data(), std::ssize(kAlphaBar), 0.1, 1}, &seed,
                      first_row, shape.rows, shape.width};
  if (op == "directional_noise" || op == "isotropic_noise") {
    add_noise(on, in, out.data());
    return {out.values(), {}, {}};
  }
  if (op == "isotropic_noise_backward") {
    isotropic_noise_backward(on, in.schedule, g.data(), in.rows, in.width, out.data());
    return {out.values(), {}, {}};
  }
  if (op == "directional_noise_backward") {
    directional_noise_backward(on, in, g.data(), out.data(), first.data(), second.data());
    return {out.values(), first.values(), second.values()};
  }
  if (shape.rows == 0) return {};
  if (op == "column_statistics") {
    column_statistics(on, z0.data(), shape.rows, shape.width, first.data(), second.data());
    return {{}, first.values(), second.values()};
  }
  column_statistics_backward(on, mean.data(), std.data(), z0.data(), shape.rows, shape.width,
                             out.data());
  return {out.values(), {}, {}};
}

template <class S>
void compare(const std::string& op, const Shape& shape, std::size_t offset, Verdict& verdict) {
  const Tables<S> tables = make_tables<S>(shape);
  const Device device;
  const Results<S> found = run(op, device.stream, tables, shape, offset);
  const Results<double> expected = run(op, kSerial, in_double(tables), shape, 0);
  verdict.compare(op, found.table, expected.table, shape.width);
  verdict.compare(op + ", first", found.first, expected.first, shape.width);
  // A deviation is small beside the values it comes from.
  verdict.compare(op + ", second", found.second, expected.second, shape.width,
                  10 * kTolerance<Arithmetic<S>>);
}

}  // namespace

int main(int, char** arguments) {
  const std::string op = arguments[1];
  Verdict verdict;
  for (const Shape& shape : kShapes) {
    for (const std::size_t offset : {0, 1}) {
      compare<float>(op, shape, offset, verdict);
#if !defined(__SANITIZE_THREAD__)
      compare<double>(op, shape, offset, verdict);
      compare<Bfloat16>(op, shape, offset, verdict);
      compare<Half>(op, shape, offset, verdict);
#endif
    }
  }
  return verdict.print();
}
