// The CSR adjacency of a bipartite graph on the host: building one, and checking one.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace hdrm {

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

// An array from malloc: not zeroed, and shrunk in place by realloc.
template <class T>
using Array = std::unique_ptr<T[], Free>;

struct Csr {
  Array<std::int64_t> rowptr;  // (num_rows + 1)
  Array<std::int32_t> col;     // (rowptr[num_rows])
  std::int64_t num_rows;
};

// The symmetric adjacency of a bipartite graph over the nodes 0..num_users-1 (users) and
// num_users..num_users+num_items-1 (items), rows sorted ascending. `collapse` keeps one of equal
// pairs. Counting sort: O(pairs + nodes) time; besides the result, 8 bytes a node.
//
// Throws std::invalid_argument for an id out of range (its position and value) and when the nodes
// do not fit int32 columns.
Csr build_csr(const std::int64_t* users, const std::int64_t* items, std::int64_t num_pairs,
              std::int64_t num_users, std::int64_t num_items, bool collapse);

namespace cpu {

// Whether rowptr[0 … num_rows] ascends.
bool ascends(const std::int64_t* rowptr, std::int64_t num_rows);

// Whether all of col[0 … count − 1] are in offset … offset + num_cols − 1.
bool within(const std::int32_t* col, std::int64_t count, std::int64_t offset,
            std::int64_t num_cols);

}  // namespace cpu
}  // namespace hdrm
