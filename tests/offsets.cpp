// Kernels on tables of more than 2³¹ elements, without the memory: a table is an address range
// whose pages come into being when they are touched, and only its last rows are. All before is 0.
// Below a table lies a range that nobody may touch: an index that wrapped in 32 bits ends there.
//
// Prints every kernel before it runs; exits with 1 where a result is wrong.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "cpu/row_kernels.h"
#include "ops/message_passing.h"
#include "ops/noising.h"
#include "ops/ranking.h"
#include "ops/riemannian_step.h"
#include "rows/philox.h"

namespace {

using namespace hdrm;
using namespace hdrm::cpu;

constexpr std::int64_t kBeyond = std::int64_t(1) << 31;
constexpr int kWidth = 65;
constexpr std::int64_t kRows = kBeyond / kWidth + 1000;  // 33 million
constexpr std::int64_t kTail = 5, kFirst = kRows - kTail;

template <class T>
class Mapped {
 public:
  explicit Mapped(std::int64_t rows, std::int64_t width = 1) : rows_(rows), width_(width) {
    constexpr std::size_t guard = kBeyond * sizeof(T);
    const std::size_t size = rows * width * sizeof(T);
    size_ = guard + size;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + guard, size, PROT_READ | PROT_WRITE) != 0) {
      std::perror("mapping a table");
      std::exit(2);
    }
    data = reinterpret_cast<T*>(base_ + guard);
  }
  // One whose last rows hold these values.
  Mapped(const std::vector<T>& tail, std::int64_t width, std::int64_t rows = kRows)
      : Mapped(rows, width) {
    std::copy(tail.begin(), tail.end(), row(rows) - tail.size());
  }
  Mapped(const Mapped&) = delete;
  ~Mapped() { munmap(base_, size_); }

  T* row(std::int64_t index) { return data + index * width_; }
  std::vector<T> tail() { return {row(rows_ - kTail), row(rows_)}; }

  T* data;

 private:
  char* base_;
  std::size_t size_;
  std::int64_t rows_, width_;
};

// Runs the last ranges of a loop, the others having nothing to do; many workers, so that a range is
// short.
const Parallel kOnlyTheEnd{[](std::int64_t size, std::int64_t, const auto& body) {
                             body(std::max<std::int64_t>(0, size - kTail), size);
                           },
                           1 << 20};

int failures = 0;

void expect(bool good) {
  std::puts(good ? "right" : "WRONG");
  failures += !good;
}

void name(const char* kernel) {
  std::printf("%s: ", kernel);
  std::fflush(stdout);
}

template <class T>
bool close(const std::vector<T>& found, const std::vector<double>& expected) {
  if (found.size() != expected.size()) return false;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (!(std::abs(found[i] - expected[i]) <= 1e-5 * std::abs(expected[i]))) return false;
  }
  return true;
}

// Spatial values of either sign; time coordinates that no kernel trusts.
std::vector<float> values(std::int64_t size, int seed) {
  std::vector<float> result(size);
  for (std::int64_t i = 0; i < size; ++i) result[i] = std::sin(float(37 * seed + i + 1));
  return result;
}

// Row kernels: the last rows of large tables give what small tables of the same rows give.
template <class Bits>
void check_row_kernel(const RowKernel& kernel, Storage storage) {
  std::vector<std::vector<Bits>> in(kernel.num_in), out(kernel.num_out);
  RowArguments small{}, large{};
  small.width = large.width = kWidth;
  std::vector<std::unique_ptr<Mapped<Bits>>> tables;
  const auto place = [&](std::vector<Bits>& rows, Table& in_small,
                         Table& in_large) {
    tables.push_back(std::make_unique<Mapped<Bits>>(rows, kWidth));
    in_small = {rows.data(), kWidth, storage};
    in_large = {tables.back()->data, kWidth, storage};
  };
  for (int k = 0; k < kernel.num_in; ++k) {
    const std::vector<float> v = values(kTail * kWidth, k);
    in[k].resize(v.size());
    if constexpr (sizeof(Bits) == 4) {
      in[k] = v;
    } else {
      for (std::size_t i = 0; i < v.size(); ++i) in[k][i] = to_bfloat16(v[i]);
    }
    place(in[k], small.in[k], large.in[k]);
  }
  for (int k = 0; k < kernel.num_out; ++k) {
    out[k].resize(kTail * kWidth);
    place(out[k], small.out[k], large.out[k]);
  }
  const Space<float> space(0.7, 1e3);  // a margin that keeps every hinge open
  kernel.f32(small, space, 0, kTail);
  kernel.f32(large, space, kFirst, kRows);
  bool good = true;
  for (int k = 0; k < kernel.num_out; ++k) {
    good = good && tables[kernel.num_in + k]->tail() == out[k] && out[k][kTail * kWidth - 1] != 0;
  }
  expect(good);
}

void check_row_kernels() {
  name("row kernel");
  check_row_kernel<float>(margin_ranking_backward, Storage::kNative);
  name("row kernel, 16-bit storage");
  check_row_kernel<std::uint16_t>(margin_ranking_backward, Storage::kBfloat16);
}

void check_steps() {
  const std::int64_t size = kTail * kWidth;
  const Space<float> space(0.7, 0);
  const std::vector<float> grad = values(size, 2);
  std::vector<float> x = values(size, 1), moment = values(size, 3), second(kTail, 0.1f);
  Mapped<float> large_grad(grad, kWidth), large_x(x, kWidth), large_moment(moment, kWidth);
  Mapped<float> large_second(second, 1);
  const auto same = [&] {
    return large_x.tail() == x && large_moment.tail() == moment && large_second.tail() == second;
  };
  name("riemannian_sgd");
  const SgdOptions<float> sgd{0.1f, 0.9f, 0.1f, 0.01f, true};
  sgd_step(kOnlyTheEnd, space, sgd, x.data(), grad.data(), moment.data(), kTail, kWidth);
  sgd_step(kOnlyTheEnd, space, sgd, large_x.data, large_grad.data, large_moment.data, kRows,
           kWidth);
  expect(same());
  name("riemannian_adam");
  const AdamOptions<float> adam{0.1f, 0.9f, 0.99f, 1e-8f, 0.01f, 0.1f, 0.01f};
  adam_step(kOnlyTheEnd, space, adam, x.data(), grad.data(), moment.data(), second.data(), kTail,
            kWidth);
  adam_step(kOnlyTheEnd, space, adam, large_x.data, large_grad.data, large_moment.data,
            large_second.data, kRows, kWidth);
  expect(same());
}

// The last nodes' neighbours are the last nodes; the one before the last has more than 2³¹ edges,
// nearly all to node 0, whose row is 0.
void check_propagate() {
  constexpr std::int64_t n = kRows, kEdges = kBeyond + 100;
  const std::vector<std::vector<std::int64_t>> neighbours{{}, {}, {n - 1}, {n - 1, n - 3},
                                                          {n - 2, n - 3}};
  const double degree[kTail] = {0, 0, 1, kEdges, 2};
  Mapped<std::int64_t> rowptr(n + 1);
  Mapped<std::int32_t> col(kEdges + 3);
  rowptr.data[n - 2] = 1;
  rowptr.data[n - 1] = 1 + kEdges;
  rowptr.data[n] = 3 + kEdges;
  col.data[0] = n - 1;
  col.data[kEdges - 1] = n - 1;
  col.data[kEdges] = n - 3;
  col.data[kEdges + 1] = n - 2;
  col.data[kEdges + 2] = n - 3;
  const std::vector<float> x = values(kTail * kWidth, 1), g = values(kTail * kWidth, 2);
  Mapped<float> large_x(x, kWidth), large_g(g, kWidth), out(n, kWidth), factor(n);
  Mapped<float> even(n, kWidth), odd(n, kWidth);
  const double c = 0.7;
  Propagation<float> p{rowptr.data, col.data, n, kEdges + 3, kWidth, 3, true, false, false,
                       Space<float>(c, 0), factor.data, {even.data, odd.data}};

  // (A + I)·(scale·h), and the scale of every row afterwards.
  using Rows = std::vector<double>;
  const auto gather = [&](const Rows& h, auto before, auto after) {
    Rows sum(h.size());
    for (int i = 0; i < kTail; ++i) {
      std::vector<std::int64_t> from = neighbours[i];
      from.push_back(kFirst + i);
      for (const std::int64_t j : from) {
        for (int k = 1; k < kWidth; ++k) {
          sum[i * kWidth + k] += before(j - kFirst) * h[(j - kFirst) * kWidth + k];
        }
      }
      for (int k = 1; k < kWidth; ++k) sum[i * kWidth + k] *= after(i);
    }
    return sum;
  };
  const auto one = [](int) { return 1.0; };
  const auto inverse = [&](int i) { return 1 / (degree[i] + 1); };

  name("propagate");
  propagate(kOnlyTheEnd, p, large_x.data, out.data);
  Rows h(x.begin(), x.end()), expected(h.size());
  h = gather(h, [&](int i) {
    double q = 0;
    for (int k = 1; k < kWidth; ++k) q += c * x[i * kWidth + k] * x[i * kWidth + k];
    return std::asinh(std::sqrt(q)) / std::sqrt(q);
  }, inverse);
  for (int layer = 1; layer <= 3; ++layer) {
    for (std::size_t i = 0; i < h.size(); ++i) expected[i] += h[i];
    h = gather(h, one, inverse);
  }
  expect(close(out.tail(), expected));

  name("propagate_backward");
  p.lorentz = false;
  propagate_backward(kOnlyTheEnd, p, large_g.data, large_x.data, out.data);
  Rows t(g.begin(), g.end());
  for (int layer = 1; layer <= 3; ++layer) {
    t = gather(t, inverse, one);
    for (std::size_t i = 0; layer < 3 && i < t.size(); ++i) t[i] += g[i];
    for (int i = 0; i < kTail; ++i) t[i * kWidth] = 0;
  }
  expect(close(out.tail(), t));
}

// The steps of the last rows and their schedule; a and b of row i of these.
const std::vector<std::int64_t> kSteps{3, 1, 4, 0, 2};
const std::vector<double> kAlphaBar{0.9, 0.7, 0.5, 0.3, 0.1};
constexpr double kGrowth = 0.1, kRootC = 0.8;

double signal_of(int i) {
  return std::sqrt(kAlphaBar[kSteps[i]]) + kGrowth * std::tanh(kRootC * kSteps[i] / 5);
}
double noise_of(int i) { return std::sqrt(1 - kAlphaBar[kSteps[i]]); }
Schedule schedule(const Mapped<std::int64_t>& t) {
  return {t.data, kAlphaBar.data(), 5, kGrowth, kRootC};
}

// mean null for isotropic noise.
void check_add_noise(std::int64_t rows, int width, const float* mean, const float* std) {
  const std::vector<float> z = values(kTail * width, 1);
  Mapped<float> z0(z, width, rows), out(rows, width);
  Mapped<std::int64_t> t(kSteps, 1, rows);
  const std::int64_t seed = 7;
  add_noise(kOnlyTheEnd, {z0.data, mean, std, schedule(t), &seed, 0, rows, width}, out.data);
  const std::vector<float> found = out.tail();
  bool good = true;
  for (int i = 0; i < kTail * width; ++i) {
    const std::int64_t row = rows - kTail + i / width;
    const int k = i % width;
    float e[4];
    normals(Words(seed), Words(row * ((width + 3) / 4) + k / 4), e);
    const double step = mean ? mean[k] + std[k] * std::copysign(double(e[k % 4]), z[i]) : e[k % 4];
    const double expected = k == 0 ? 0 : signal_of(i / width) * z[i] + noise_of(i / width) * step;
    good &= std::abs(found[i] - expected) < 1e-5;
  }
  expect(good);
}

void check_noising() {
  const std::vector<float> z = values(kTail * kWidth, 1), g = values(kTail * kWidth, 2);
  const std::vector<float> mean = values(kWidth, 3), std = values(kWidth, 4);
  Mapped<float> z0(z, kWidth), grad(g, kWidth), out(kRows, kWidth);
  Mapped<std::int64_t> t(kSteps, 1);
  const std::int64_t seed = 7;
  const Noising<float> in{z0.data, mean.data(), std.data(), schedule(t), &seed, 0, kRows, kWidth};
  // f(i, k) for element i of the tail, in column k; 0 in column 0.
  const auto each = [](auto f) {
    std::vector<double> result(kTail * kWidth);
    for (int i = 0; i < kTail * kWidth; ++i) result[i] = i % kWidth == 0 ? 0 : f(i, i % kWidth);
    return result;
  };
  const auto column_sums = [](const std::vector<double>& table) {
    std::vector<double> sum(kWidth);
    for (int i = 0; i < kTail * kWidth; ++i) sum[i % kWidth] += table[i];
    return sum;
  };
  const auto scaled = each([&](int i, int) { return signal_of(i / kWidth) * g[i]; });

  name("directional noise");
  check_add_noise(kRows, kWidth, mean.data(), std.data());
  name("isotropic noise, random numbers beyond 2^31");
  check_add_noise(kBeyond + kTail, 2, nullptr, nullptr);

  name("isotropic noise, backward");
  isotropic_noise_backward(kOnlyTheEnd, in.schedule, grad.data, in.rows, in.width, out.data);
  expect(close(out.tail(), scaled));

  name("directional noise, backward");
  Mapped<float> gz0(kRows, kWidth);
  std::vector<float> gmean(kWidth), gstd(kWidth);
  directional_noise_backward(kOnlyTheEnd, in, grad.data, gz0.data, gmean.data(), gstd.data());
  const auto of_mean = each([&](int i, int) { return noise_of(i / kWidth) * g[i]; });
  const auto sum = column_sums(of_mean);
  const auto size = column_sums(each([&](int i, int) { return std::abs(of_mean[i]); }));
  bool good = close(gz0.tail(), scaled);
  // What is added up may cancel.
  for (int k = 0; k < kWidth; ++k) good &= std::abs(gmean[k] - sum[k]) <= 1e-6 * size[k];
  expect(good);

  name("column statistics");
  std::vector<float> found_mean(kWidth), found_std(kWidth);
  column_statistics(kOnlyTheEnd, z0.data, kRows, kWidth, found_mean.data(), found_std.data());
  auto average = column_sums(each([&](int i, int) { return z[i]; }));
  auto deviation = column_sums(each([&](int i, int) { return double(z[i]) * z[i]; }));
  for (int k = 0; k < kWidth; ++k) {
    average[k] /= kRows;
    deviation[k] = std::sqrt((deviation[k] - kRows * average[k] * average[k]) / (kRows - 1));
  }
  expect(close(found_mean, average) && close(found_std, deviation));

  name("column statistics, backward");
  column_statistics_backward(kOnlyTheEnd, mean.data(), std.data(), z0.data, kRows, kWidth,
                             out.data);
  expect(close(out.tail(), each([&](int i, int k) {
    return mean[k] / double(kRows) + std[k] * (z[i] - average[k]) / ((kRows - 1) * deviation[k]);
  })));
}

void check_topk() {
  // The last of 33 million users among 70 items; one of them is taken, by an entry beyond 2³¹.
  constexpr std::int64_t kItems = 70, kBest = kWidth, kTaken = 3;
  const std::vector<float> items = values(kItems * kWidth, 1);
  Mapped<float> users(std::vector<float>(kTail * kWidth), kWidth);
  Mapped<float> distance(kRows, kBest);
  Mapped<std::int64_t> index(kRows, kBest), rowptr(kRows + 1);
  Mapped<std::int32_t> col(kBeyond + 1);
  rowptr.data[kRows - 1] = kBeyond;
  rowptr.data[kRows] = kBeyond + 1;
  col.data[kBeyond] = kTaken;
  // A user at the origin is at distance asinh|ys| from an item.
  std::vector<std::pair<double, std::int64_t>> nearest;
  for (std::int64_t i = 0; i < kItems; ++i) {
    double q = 0;
    for (int k = 1; k < kWidth; ++k) q += double(items[i * kWidth + k]) * items[i * kWidth + k];
    if (i != kTaken) nearest.emplace_back(std::asinh(std::sqrt(q)), i);
  }
  std::sort(nearest.begin(), nearest.end());
  name("topk, users");
  const Parallel last_user{[](std::int64_t size, std::int64_t, const auto& body) {
                             body(size == kRows ? kRows - 1 : 0, size);
                           },
                           1};
  topk(last_user,
       TopK<float>{users.data, items.data(), kRows, kItems, kWidth, rowptr.data, col.data, 0, kBest,
                   Space<float>(1, 0)},
       distance.data, index.data);
  bool good = true;
  for (int j = 0; j < kBest; ++j) {
    good &= std::abs(distance.row(kRows - 1)[j] - nearest[j].first) < 1e-5;
  }
  expect(good && index.row(kRows - 1)[0] == nearest[0].second);
}

void check_sample_negatives() {
  constexpr std::int64_t kItems = 10;
  Mapped<std::int64_t> users(kRows), rowptr(kRows + 1), out(kRows, kWidth);
  Mapped<std::int32_t> col(kBeyond + 2);
  rowptr.data[kRows - 1] = kBeyond;
  rowptr.data[kRows] = kBeyond + 2;
  col.data[kBeyond] = 4;
  col.data[kBeyond + 1] = 6;
  users.data[kRows - 1] = kRows - 1;
  name("sample_negatives");
  const std::int64_t seed = 5;
  sample_negatives(kOnlyTheEnd, {users.data, kRows, rowptr.data, kRows, col.data, kBeyond + 2, 0,
                                 kItems, kWidth, &seed},
                   out.data);
  bool good = true;
  for (int j = 0; j < kWidth; ++j) {
    const std::int64_t rank = bounded(Words(seed), Words((kRows - 1) * kWidth + j), kItems - 2);
    good &= out.row(kRows - 1)[j] == rank + (rank > 3) + (rank > 4);
  }
  expect(good);
}

}  // namespace

int main() {
  check_row_kernels();
  check_steps();
  check_propagate();
  check_noising();
  check_topk();
  check_sample_negatives();
  return failures != 0;
}
