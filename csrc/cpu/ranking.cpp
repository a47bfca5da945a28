#include "ops/ranking.h"

#include <stdexcept>
#include <string>

#include "cpu/row_kernel.h"
#include "ops/row_ops.h"
#include "rows/ranking.h"

namespace hdrm {
namespace cpu {

// The hinge --------------------------------------------------------------------------------------

HDRM_HINGES(HDRM_ROW_KERNEL)

}  // namespace cpu

// Negative samples -------------------------------------------------------------------------------

namespace {

constexpr std::int64_t kGrain = 1 << 10;  // draws worth waking a thread for

// By one thread before any draw, so that the first offender of the batch is named, whatever the
// number of threads.
void check(const NegativeSampling& in) {
  const auto reject = [](const std::string& what) {
    throw std::invalid_argument("sample_negatives: " + what);
  };
  std::int64_t full = -1;
  for (std::int64_t b = 0; b < in.batch; ++b) {
    const std::int64_t user = in.users[b];
    if (user < 0 || user >= in.num_users)
      reject("users must be in 0 … " + std::to_string(in.num_users - 1) + ", got " +
             std::to_string(user));
    const std::int64_t begin = in.rowptr[user], end = in.rowptr[user + 1];
    if (begin < 0 || end < begin || end > in.num_entries)
      reject("row " + std::to_string(user) + " of exclude is " + std::to_string(begin) + " … " +
             std::to_string(end) + ", but col has " + std::to_string(in.num_entries) + " entries");
    if (full < 0 && end - begin >= in.num_items) full = user;
  }
  if (full >= 0)
    reject("user " + std::to_string(full) + " has seen all " + std::to_string(in.num_items) +
           " items; leave that user out of the batch");
}

}  // namespace

void sample_negatives(const cpu::Parallel& parallel, const NegativeSampling& in,
                      std::int64_t* out) {
  check(in);
  const Words key(*in.seed);
  parallel.loop(in.batch, kGrain / in.num + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t first = in.rowptr[in.users[b]];
      const std::int64_t count = in.rowptr[in.users[b] + 1] - first;
      for (std::int64_t i = b * in.num; i < (b + 1) * in.num; ++i) {
        const std::int64_t rank = bounded(key, Words(i), in.num_items - count);
        out[i] = unseen_item(in.col + first, count, in.offset, rank);
      }
    }
  });
}

}  // namespace hdrm
