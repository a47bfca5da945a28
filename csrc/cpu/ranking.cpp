#include "rows/ranking.h"

#include "cpu/row_kernel.h"

namespace hdrm::cpu {

HDRM_ROW_KERNEL(margin_ranking, MarginRanking<T>)
HDRM_ROW_KERNEL(margin_ranking_backward, MarginRankingBackward<T>)

}  // namespace hdrm::cpu
