// The threaded kernels of csrc/cpu for ThreadSanitizer: each runs on one thread and on four, and
// must give the same bits. Threads are std::thread here, since ThreadSanitizer does not see the
// barriers of torch's OpenMP.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/graph.h"
#include "cpu/row_kernels.h"
#include "ops/message_passing.h"
#include "ops/noising.h"
#include "ops/ranking.h"
#include "ops/riemannian_step.h"

namespace {

using namespace hdrm;
using namespace hdrm::cpu;

constexpr int kThreads = 4, kWidth = 65;
constexpr std::int64_t kRows = 2000;  // more than three grains of every kernel

Parallel threads(int count) {
  return {[count](std::int64_t size, std::int64_t grain, const auto& body) {
            const std::int64_t step = std::max(grain, (size + count - 1) / count);
            std::vector<std::thread> workers;
            for (std::int64_t begin = 0; begin < size; begin += step) {
              workers.emplace_back([&, begin] { body(begin, std::min(begin + step, size)); });
            }
            for (std::thread& worker : workers) worker.join();
          },
          count};
}

template <class T>
std::vector<T> numbers(std::int64_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<T> normal(0, T(0.3));
  std::vector<T> values(size);
  for (T& value : values) value = normal(generator);
  return values;
}

int checked = 0, different = 0;

// run(parallel) returns a vector.
template <class Run>
void check(const std::string& name, Run run) {
  const auto one = run(threads(1)), four = run(threads(kThreads));
  ++checked;
  if (std::memcmp(one.data(), four.data(), one.size() * sizeof(one[0])) == 0) return;
  ++different;
  std::printf("%s: %d threads give other bits than one\n", name.c_str(), kThreads);
}

template <class T>
void check_row_kernel(const char* name, const RowKernel& kernel, RowLoop<T> loop, Storage storage) {
  using Tables = std::vector<std::vector<T>>;  // 16-bit ones use a part of theirs
  Tables in;
  for (int k = 0; k < kernel.num_in; ++k) {
    in.push_back(numbers<T>(kRows * kWidth, k));
    if (storage == Storage::kNative) continue;
    auto* bits = reinterpret_cast<std::uint16_t*>(in[k].data());
    for (std::int64_t i = 0; i < kRows * kWidth; ++i) bits[i] = 0x3000 + (i * 37 + k) % 0x0c00;
  }
  check(name, [&](const Parallel& parallel) {
    std::vector<T> out(kernel.num_out * kRows * kWidth);
    RowArguments arguments{};
    arguments.width = kWidth;
    for (int k = 0; k < kernel.num_in; ++k) arguments.in[k] = {in[k].data(), kWidth, storage};
    for (int k = 0; k < kernel.num_out; ++k) {
      arguments.out[k] = {out.data() + k * kRows * kWidth, kWidth, storage};
    }
    const Space<T> space(0.7, 0.3);
    parallel.loop(kRows, 1, [&](std::int64_t begin, std::int64_t end) {
      loop(arguments, space, begin, end);
    });
    return out;
  });
}

void check_row_kernels() {
#define HDRM_CHECK(name)                                                       \
  check_row_kernel<float>(#name, name, name.f32, Storage::kNative);            \
  check_row_kernel<float>(#name ", half", name, name.f32, Storage::kHalf);     \
  check_row_kernel<float>(#name ", bf16", name, name.f32, Storage::kBfloat16); \
  check_row_kernel<double>(#name, name, name.f64, Storage::kNative);
  HDRM_CHECK(expmap0) HDRM_CHECK(logmap) HDRM_CHECK(transport_backward) HDRM_CHECK(distance)
  HDRM_CHECK(sqdist0_backward) HDRM_CHECK(margin_ranking) HDRM_CHECK(margin_ranking_backward)
#undef HDRM_CHECK
}

// The last item is bought by every user: a row of several segments where there are enough of them.
Csr graph(std::int64_t num_users, std::int64_t num_items) {
  std::mt19937 generator(1);
  std::vector<std::int64_t> users, items;
  for (std::int64_t user = 0; user < num_users; ++user) {
    for (int k = 0; k < 5; ++k) {
      users.push_back(user);
      items.push_back(k == 0 ? num_items - 1 : generator() % num_items);
    }
  }
  return build_csr(users.data(), items.data(), users.size(), num_users, num_items, true);
}

template <class T, class W = T>
void check_propagate() {
  constexpr int kNarrow = 21;  // a piece of each of the widths that are gathered at once
  const Csr csr = graph(9000, 3000);
  const std::int64_t size = csr.num_rows * kNarrow;
  const auto x = numbers<T>(size, 1), g = numbers<T>(size, 2);
  for (int options = 0; options < 8; ++options) {
    for (const bool backward : {false, true}) {
      check("propagate", [&](const Parallel& parallel) {
        std::vector<T> out(size), factor(csr.num_rows);
        std::vector<W> even(size), odd(size);
        const Propagation<T, W> p{csr.rowptr.get(), csr.col.get(), csr.num_rows,
                                  csr.rowptr[csr.num_rows], kNarrow, 3, (options & 1) != 0,
                                  (options & 2) != 0, (options & 4) != 0, Space<T>(0.7, 0),
                                  factor.data(), {even.data(), odd.data()}};
        if (backward) propagate_backward(parallel, p, g.data(), x.data(), out.data());
        else propagate(parallel, p, x.data(), out.data());
        return out;
      });
    }
  }
}

template <class T>
void check_noising() {
  const auto z0 = numbers<T>(kRows * kWidth, 1), g = numbers<T>(kRows * kWidth, 2);
  const auto mean = numbers<T>(kWidth, 3), std = numbers<T>(kWidth, 4);
  const std::vector<double> alpha_bar{0.9, 0.5, 0.2};
  const std::int64_t num_steps = alpha_bar.size(), seed = 7;
  std::vector<std::int64_t> t(kRows);
  for (std::int64_t row = 0; row < kRows; ++row) t[row] = row % num_steps;
  const Noising<T> in{z0.data(), mean.data(), std.data(),
                      {t.data(), alpha_bar.data(), num_steps, 0.1, 1}, &seed, 5, kRows, kWidth};
  Noising<T> isotropic = in;
  isotropic.mean = isotropic.std = nullptr;
  // A result of a table and two columns, which `run` fills as far as it has them.
  const auto check_noise = [](const char* name, auto run) {
    check(name, [&](const Parallel& parallel) {
      std::vector<T> out((kRows + 2) * kWidth);
      T* columns = out.data() + kRows * kWidth;
      run(parallel, out.data(), columns, columns + kWidth);
      return out;
    });
  };
  check_noise("directional noise", [&](auto& p, T* out, T*, T*) { add_noise(p, in, out); });
  check_noise("isotropic noise", [&](auto& p, T* out, T*, T*) { add_noise(p, isotropic, out); });
  check_noise("directional noise, backward", [&](auto& p, T* out, T* gmean, T* gstd) {
    directional_noise_backward(p, in, g.data(), out, gmean, gstd);
  });
  check_noise("isotropic noise, backward", [&](auto& p, T* out, T*, T*) {
    isotropic_noise_backward(p, in.schedule, g.data(), in.rows, in.width, out);
  });
  check_noise("column statistics", [&](auto& p, T*, T* mean_out, T* std_out) {
    column_statistics(p, z0.data(), kRows, kWidth, mean_out, std_out);
  });
  check_noise("column statistics, backward", [&](auto& p, T* out, T*, T*) {
    column_statistics_backward(p, mean.data(), std.data(), z0.data(), kRows, kWidth, out);
  });
}

template <class T>
void check_topk() {
  constexpr std::int64_t kUsers = 40, kItems = 300, kBest = 7;
  const Csr seen = graph(kUsers, kItems);
  const auto users = numbers<T>(kUsers * kWidth, 1), items = numbers<T>(kItems * kWidth, 2);
  const TopK<T> task{users.data(), items.data(), kUsers, kItems, kWidth, seen.rowptr.get(),
                     seen.col.get(), kUsers, kBest, Space<T>(1, 0)};
  std::vector<std::int64_t> ids(kUsers * kBest);
  for (const bool of_ids : {false, true}) {
    check("topk", [&](const Parallel& parallel) {
      std::vector<T> distance(kUsers * kBest);
      topk(parallel, task, distance.data(), ids.data());
      return of_ids ? std::vector<T>(ids.begin(), ids.end()) : distance;
    });
  }
}

void check_sample_negatives() {
  constexpr std::int64_t kUsers = 9000, kItems = 3000, kDraws = 3;
  const Csr seen = graph(kUsers, kItems);
  std::vector<std::int64_t> users(kUsers);
  for (std::int64_t u = 0; u < kUsers; ++u) users[u] = (u * 7) % kUsers;
  const std::int64_t seed = 5;
  check("sample_negatives", [&](const Parallel& parallel) {
    std::vector<std::int64_t> out(kUsers * kDraws);
    sample_negatives(parallel, {users.data(), kUsers, seen.rowptr.get(), kUsers, seen.col.get(),
                                seen.rowptr[kUsers], kUsers, kItems, kDraws, &seed},
                     out.data());
    return out;
  });
}

template <class T>
void check_steps() {
  const auto grad = numbers<T>(kRows * kWidth, 2);
  const Space<T> space(0.7, 0);
  const auto check_step = [&](const char* name, auto step) {
    check(name, [&](const Parallel& parallel) {
      std::vector<T> x = numbers<T>(kRows * kWidth, 1), moment(kRows * kWidth), second(kRows);
      step(parallel, x.data(), moment.data(), second.data());
      for (const auto& state : {moment, second}) x.insert(x.end(), state.begin(), state.end());
      return x;
    });
  };
  check_step("riemannian_sgd", [&](auto& parallel, T* x, T* moment, T*) {
    const SgdOptions<T> options{T(0.1), T(0.9), T(0.1), T(0.01), true};
    sgd_step(parallel, space, options, x, grad.data(), moment, kRows, kWidth);
  });
  check_step("riemannian_adam", [&](auto& parallel, T* x, T* moment, T* second) {
    const AdamOptions<T> options{T(0.1), T(0.9), T(0.99), T(1e-8), T(0.01), T(0.1), T(0.01)};
    adam_step(parallel, space, options, x, grad.data(), moment, second, kRows, kWidth);
  });
}

}  // namespace

int main() {
  check_row_kernels();
  check_propagate<float>();
  check_propagate<double>();
  check_propagate<float, Bfloat16>();
  check_noising<float>();
  check_noising<double>();
  check_topk<float>();
  check_topk<double>();
  check_sample_negatives();
  check_steps<float>();
  check_steps<double>();
  std::printf("%d cases on %d threads: %d differ from one thread\n", checked, kThreads, different);
  return different != 0;
}
