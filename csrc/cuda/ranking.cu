// The hinge and negative samples; topk is in nearest.cu.
#include "rows/ranking.h"

#include "cuda/row_kernel.cuh"
#include "ops/ranking.h"
#include "ops/row_ops.h"

namespace hdrm {
namespace cuda {

HDRM_HINGES(HDRM_ROW_KERNEL)

}  // namespace cuda

namespace {

constexpr int kDraws = 128;  // of a block

// A thread for each draw, which reads no row that does not lie in col.
__global__ void __launch_bounds__(kDraws) draw_items(const NegativeSampling in, std::int64_t* out) {
  const Words key(*in.seed);
  for (std::int64_t i = std::int64_t(blockIdx.x) * kDraws + threadIdx.x; i < in.batch * in.num;
       i += std::int64_t(gridDim.x) * kDraws) {
    const std::int64_t user = in.users[i / in.num];
    std::int64_t item = -1;
    if (0 <= user && user < in.num_users) {
      const std::int64_t begin = in.rowptr[user], end = in.rowptr[user + 1], count = end - begin;
      if (0 <= begin && begin <= end && end <= in.num_entries && count < in.num_items) {
        const std::int64_t rank = bounded(key, Words(i), in.num_items - count);
        item = unseen_item(in.col + begin, count, in.offset, rank);
      }
    }
    out[i] = item;
  }
}

}  // namespace

void sample_negatives(const cuda::Stream& stream, const NegativeSampling& in, std::int64_t* out) {
  if (in.batch * in.num == 0) return;
  HDRM_LAUNCH(draw_items, cuda::blocks_for(in.batch * in.num, kDraws), kDraws, 0,
              static_cast<cudaStream_t>(stream.handle), in, out);
}

}  // namespace hdrm
