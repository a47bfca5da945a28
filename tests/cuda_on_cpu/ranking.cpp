// topk and sample_negatives of csrc/cuda, run by the emulator: `ranking CASE`. Top-k is compared
// with the distances of all pairs in double, samples with those of csrc/cpu. Prints a hash of the
// results, which must not depend on HDRM_CUDA_ORDER, and the first thing that is wrong.
#include "ops/ranking.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "driver.h"
#include "cpu/team.h"
#include "rows/ranking.h"

namespace {

using namespace hdrm;
using cuda_on_cpu::Buffer;

cuda_on_cpu::Verdict verdict;

template <class... Values>
bool wrong(const char* format, Values... values) {
  std::printf(format, values...);
  std::puts("");
  return false;
}

struct Csr {
  std::vector<std::int64_t> rowptr{0};
  std::vector<std::int32_t> col;

  void add_row(const std::set<int>& items, int offset) {
    for (const int item : items) col.push_back(item + offset);
    rowptr.push_back(static_cast<std::int64_t>(col.size()));
  }
};

// Top-k ------------------------------------------------------------------------------------------

struct TopKCase {
  int num_users, num_items, width, k;
  double seen;      // share of the items that a user must not get
  int distinct;     // item i is the same point as item i % distinct
  double radius;    // of most points
  int offset = 0;   // of tables from 16 bytes' alignment, in elements
  bool nan = false; // user 0 and item 0 are NaN
  double spread = 0;  // if not 0: all points are about this far from one
};

const std::map<std::string, TopKCase> kTopK{
    {"plain", {9, 300, 16, 5, 0, 300, 1}},
    {"seen", {70, 200, 8, 7, 0.3, 200, 1}},
    {"odd", {5, 130, 33, 3, 0.1, 130, 1, 1}},
    {"narrow", {5, 130, 2, 4, 0.1, 130, 1}},
    {"unaligned", {5, 70, 12, 3, 0.1, 70, 1, 1}},
    {"all", {3, 65, 5, 65, 0.2, 65, 1}},  // k is the number of items: some get fewer
    {"single", {1, 1, 4, 1, 0, 1, 1}},
    {"same", {4, 200, 5, 6, 0.2, 1, 1}},        // more equally near than a list holds
    {"copies", {4, 260, 5, 40, 0.2, 7, 1}},     // ties across the k-th place
    {"near", {6, 200, 9, 5, 0.1, 200, 1e-4}},   // close to the origin
    {"far", {6, 200, 9, 5, 0.1, 200, 12}},
    {"nan", {6, 100, 6, 4, 0.1, 100, 1, 0, true}},
    {"close", {6, 300, 9, 5, 0.1, 300, 3, 0, false, 0.01}},  // as near as the product's rounding
    {"batches", {300, 64, 3, 2, 0.2, 64, 1}},   // with few blocks: of users, one after the other
};

template <class T>
std::vector<T> points(int count, const TopKCase& c, int distinct, std::minstd_rand& random) {
  std::normal_distribution<double> normal(0, 1);
  std::vector<T> all(static_cast<std::size_t>(count) * c.width);
  for (int row = 0; row < count; ++row) {
    T* x = all.data() + static_cast<std::size_t>(row) * c.width;
    if (row >= distinct) {
      std::copy(x - distinct * c.width, x - (distinct - 1) * c.width, x);
      continue;
    }
    double size = 0;
    for (int i = 1; i < c.width; ++i) {
      x[i] = static_cast<T>(normal(random));
      size += static_cast<double>(x[i]) * x[i];
    }
    const double scale = std::sinh(c.radius * (1 + 0.1 * normal(random))) / std::sqrt(size);
    for (int i = 1; i < c.width; ++i) {
      x[i] = static_cast<T>(c.spread > 0 ? std::sinh(c.radius) + c.spread * x[i] : x[i] * scale);
    }
    x[0] = std::numeric_limits<T>::quiet_NaN();  // nobody believes it
  }
  return all;
}

template <class T>
bool run_topk(const TopKCase& c) {
  std::minstd_rand random(c.width);
  std::vector<T> users = points<T>(c.num_users, c, c.num_users, random);
  std::vector<T> items = points<T>(c.num_items, c, c.distinct, random);
  if (c.nan) users[1] = items[1] = std::numeric_limits<T>::quiet_NaN();
  Csr exclude;
  const int offset = 11;
  std::vector<std::set<int>> seen(c.num_users);
  for (auto& row : seen) {
    for (int i = 0; i < c.num_items; ++i) {
      if (random() % 1000 < 1000 * c.seen) row.insert(i);
    }
    exclude.add_row(row, offset);
  }
  const Space<T> space(0.7, 0);
  const std::size_t size = static_cast<std::size_t>(c.num_users) * c.k;
  Buffer<T> user_table(users, c.offset), item_table(items, c.offset), distances(size);
  Buffer<std::int64_t> rowptr(exclude.rowptr, 0), ids(size);
  Buffer<std::int32_t> col(exclude.col, 0);
  const cuda_on_cpu::Device device;
  topk(device.stream,
       TopK<T>{user_table.data(), item_table.data(), c.num_users, c.num_items, c.width,
               c.seen > 0 ? rowptr.data() : nullptr, col.data(), offset, c.k, space},
       distances.data(), ids.data());
  const T* const distance = distances.data();
  const std::int64_t* const index = ids.data();
  verdict.hash(distance, size * sizeof(T));
  verdict.hash(index, size * sizeof(std::int64_t));

  const auto wide_users = cuda_on_cpu::widened(users), wide_items = cuda_on_cpu::widened(items);
  const double tolerance = sizeof(T) == 4 ? 3e-6 : 1e-12;
  for (int u = 0; u < c.num_users; ++u) {
    std::vector<double> all(c.num_items);  // NaN stands for what a user cannot get
    std::vector<double> sorted;
    for (int i = 0; i < c.num_items; ++i) {
      all[i] = seen[u].count(i) ? std::nan("")
                                : point_distance(Serial(), space.template as<double>(),
                                                 wide_users.data() + u * c.width,
                                                 wide_items.data() + i * c.width, c.width);
      if (all[i] == all[i]) sorted.push_back(all[i]);
    }
    std::sort(sorted.begin(), sorted.end());
    std::set<std::int64_t> found;
    for (int j = 0; j < c.k; ++j) {
      const T d = distance[u * c.k + j];
      const std::int64_t i = index[u * c.k + j];
      if (j >= static_cast<int>(sorted.size())) {
        if (i == -1 && d == std::numeric_limits<T>::infinity()) continue;
        return wrong("user %d, place %d: %g, %lld, expected inf, -1", u, j, double(d),
                     static_cast<long long>(i));
      }
      if (i < 0 || i >= c.num_items || all[i] != all[i] || !found.insert(i).second) {
        return wrong("user %d, place %d: item %lld", u, j, static_cast<long long>(i));
      }
      if (!(std::abs(d - sorted[j]) <= tolerance * sorted[j]) ||
          !(std::abs(d - all[i]) <= tolerance * all[i])) {
        return wrong("user %d, place %d: %.9g, expected %.9g, item %lld is at %.9g", u, j,
                     double(d), sorted[j], static_cast<long long>(i), all[i]);
      }
      const auto before = std::pair(j > 0 ? distance[u * c.k + j - 1] : T(-1),
                                    j > 0 ? index[u * c.k + j - 1] : -1);
      if (!(before < std::pair(d, i))) return wrong("user %d, place %d: not in order", u, j);
      for (std::int64_t copy = i - c.distinct; copy >= 0; copy -= c.distinct) {
        if (all[copy] == all[copy] && !found.count(copy)) {
          return wrong("user %d, place %d: item %lld, but not %lld", u, j,
                       static_cast<long long>(i), static_cast<long long>(copy));
        }
      }
    }
  }
  return true;
}

// Negative samples -------------------------------------------------------------------------------

bool run_negatives() {
  const int num_items = 40, offset = 5;
  Csr exclude;
  exclude.add_row({}, offset);
  exclude.add_row({0, 1, 2, 39}, offset);
  std::set<int> most;
  for (int i = 0; i < num_items; ++i) {
    if (i != 17) most.insert(i);
  }
  exclude.add_row(most, offset);
  most.insert(17);
  std::vector<std::int64_t> users;
  for (int b = 0; b < 101; ++b) users.push_back(b % 3);
  const std::int64_t seed = 0x123456789abcdef;
  const auto task = [&] {
    const auto num_users = static_cast<std::int64_t>(exclude.rowptr.size()) - 1;
    return NegativeSampling{users.data(), static_cast<std::int64_t>(users.size()),
                            exclude.rowptr.data(), num_users, exclude.col.data(),
                            static_cast<std::int64_t>(exclude.col.size()), offset, num_items, 7,
                            &seed};
  };
  const cuda_on_cpu::Device device;
  std::vector<std::int64_t> expected(users.size() * 7), found(users.size() * 7, -7);
  sample_negatives(cuda_on_cpu::kSerial, task(), expected.data());
  sample_negatives(device.stream, task(), found.data());
  verdict.hash(found.data(), found.size() * sizeof(found[0]));
  if (found != expected) return wrong("not the draws of csrc/cpu");

  exclude.add_row(most, offset);                                     // user 3 has seen all
  exclude.rowptr.push_back(static_cast<std::int64_t>(exclude.col.size()) + 1);  // 4: too long
  exclude.rowptr.push_back(2);                                       // 5: before its beginning
  exclude.rowptr.push_back(5);
  exclude.rowptr.push_back(-3);                                      // 7: ends before col
  exclude.rowptr.push_back(1);                                       // 8: begins before col
  users = {-1, 9, 3, 4, 5, 7, 8, std::int64_t(1) << 40, std::numeric_limits<std::int64_t>::min()};
  found.assign(users.size() * 7, -7);
  sample_negatives(device.stream, task(), found.data());
  for (const std::int64_t item : found) {
    if (item != -1) return wrong("%lld drawn for a user that has no draws",
                                 static_cast<long long>(item));
  }
  users.clear();
  sample_negatives(device.stream, task(), nullptr);
  return true;
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  bool right = false;
  if (name == "negatives") {
    right = run_negatives();
  } else {
    right = run_topk<float>(kTopK.at(name)) && run_topk<double>(kTopK.at(name));
  }
  return right ? verdict.print() : 1;
}
