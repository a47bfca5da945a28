// Normal numbers by the block.
#pragma once

#include <cstdint>

#include "rows/philox.h"

namespace hdrm::cpu {

// Blocks are whole numbers of so many indices.
inline constexpr int kLanes = 16;

// e[4·i …] ← the four numbers of index first + i, for 0 ≤ i < count, rounded up to a block.
void normals(Words key, Words first, std::int64_t count, float* e);

}  // namespace hdrm::cpu
