#include "cpu/graph.h"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/clones.h"

namespace hdrm {
namespace {

template <class T>
Array<T> allocate(std::int64_t size) {
  // malloc(0) may return null, which would read as a failure.
  void* pointer = std::malloc(std::max<std::size_t>(static_cast<std::size_t>(size) * sizeof(T), 1));
  if (!pointer) throw std::bad_alloc();
  return Array<T>(static_cast<T*>(pointer));
}

template <class T>
void shrink(Array<T>& array, std::int64_t size) {
  const auto bytes = std::max<std::size_t>(static_cast<std::size_t>(size) * sizeof(T), 1);
  void* pointer = std::realloc(array.get(), bytes);
  if (!pointer) return;  // the larger block is still good
  (void)array.release();
  array.reset(static_cast<T*>(pointer));
}

[[noreturn]] void reject(const char* what, std::int64_t position, std::int64_t id,
                         std::int64_t count) {
  const std::string name(what);
  throw std::invalid_argument(name + "[" + std::to_string(position) + "] = " + std::to_string(id) +
                              ": expected ids from 0 to num_" + name + " - 1 = " +
                              std::to_string(count - 1));
}

// Writes the transpose of rows first..last-1 into the rows of the other side. Rows are visited in
// ascending order, so the rows written come out sorted, whatever the order within the rows read.
void transpose(std::int64_t first, std::int64_t last, const std::int64_t* rowptr,
               std::int32_t* col, std::vector<std::int64_t>& next) {
  for (std::int64_t row = first; row < last; ++row)
    for (std::int64_t p = rowptr[row]; p < rowptr[row + 1]; ++p)
      col[next[col[p]]++] = static_cast<std::int32_t>(row);
}

// Drops equal neighbours from the sorted user rows, in place, and makes room for item rows of the
// remaining pairs behind them. `next` becomes the start of every item row.
void collapse_user_rows(std::int64_t num_users, std::int64_t num_nodes, std::int64_t* rowptr,
                        std::int32_t* col, std::vector<std::int64_t>& next) {
  std::fill(next.begin() + num_users, next.end(), 0);
  std::int64_t read = 0, written = 0;
  for (std::int64_t user = 0; user < num_users; ++user) {
    const std::int64_t begin = written;
    for (const std::int64_t end = rowptr[user + 1]; read < end; ++read) {
      if (written > begin && col[written - 1] == col[read]) continue;
      ++next[col[read]];
      col[written++] = col[read];
    }
    rowptr[user + 1] = written;
  }
  for (std::int64_t item = num_users; item < num_nodes; ++item) {
    rowptr[item + 1] = rowptr[item] + next[item];
    next[item] = rowptr[item];
  }
}

}  // namespace

Csr build_csr(const std::int64_t* users, const std::int64_t* items, std::int64_t num_pairs,
              std::int64_t num_users, std::int64_t num_items, bool collapse) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  if (num_users < 0 || num_items < 0)
    throw std::invalid_argument("num_users and num_items: expected >= 0, got " +
                                std::to_string(num_users) + " and " + std::to_string(num_items));
  if (num_users > most || num_items > most - num_users)
    throw std::invalid_argument(
        "num_users + num_items: expected fewer than 2^31 nodes (columns are int32), got " +
        std::to_string(num_users) + " + " + std::to_string(num_items));
  const std::int64_t num_nodes = num_users + num_items;

  auto rowptr = allocate<std::int64_t>(num_nodes + 1);
  std::fill_n(rowptr.get(), num_nodes + 1, 0);
  for (std::int64_t p = 0; p < num_pairs; ++p) {
    if (users[p] < 0 || users[p] >= num_users) reject("users", p, users[p], num_users);
    if (items[p] < 0 || items[p] >= num_items) reject("items", p, items[p], num_items);
    ++rowptr[users[p] + 1];
    ++rowptr[num_users + items[p] + 1];
  }
  for (std::int64_t row = 0; row < num_nodes; ++row) rowptr[row + 1] += rowptr[row];

  auto col = allocate<std::int32_t>(2 * num_pairs);
  std::vector<std::int64_t> next(rowptr.get(), rowptr.get() + num_nodes);
  // Item rows in input order, then user rows sorted by item, then item rows again, sorted by user.
  for (std::int64_t p = 0; p < num_pairs; ++p)
    col[next[num_users + items[p]]++] = static_cast<std::int32_t>(users[p]);
  transpose(num_users, num_nodes, rowptr.get(), col.get(), next);
  if (collapse)
    collapse_user_rows(num_users, num_nodes, rowptr.get(), col.get(), next);
  else
    std::copy(rowptr.get() + num_users, rowptr.get() + num_nodes, next.begin() + num_users);
  transpose(0, num_users, rowptr.get(), col.get(), next);

  const std::int64_t size = rowptr[num_nodes];
  if (size < 2 * num_pairs) shrink(col, size);
  return {std::move(rowptr), std::move(col), num_nodes};
}

namespace cpu {

HDRM_CLONES bool ascends(const std::int64_t* rowptr, std::int64_t num_rows) {
  int falls = 0;
#pragma omp simd reduction(| : falls)
  for (std::int64_t i = 0; i < num_rows; ++i) falls |= rowptr[i] > rowptr[i + 1];
  return falls == 0;
}

HDRM_CLONES bool within(const std::int32_t* col, std::int64_t count, std::int64_t offset,
                        std::int64_t num_cols) {
  std::int32_t low = std::numeric_limits<std::int32_t>::max(), high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (std::int64_t e = 0; e < count; ++e) {
    low = std::min(low, col[e]);
    high = std::max(high, col[e]);
  }
  return count == 0 || (low >= offset && high - offset < num_cols);
}

}  // namespace cpu
}  // namespace hdrm
