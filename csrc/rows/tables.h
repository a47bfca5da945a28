// The tables of a row op, as a binding describes them to a loop over rows of any backend.
#pragma once

#include <cstdint>

#include "rows/storage.h"

namespace hdrm {

inline constexpr int kMaxRows = 4;  // tensors on either side of a row op

// A table: where its rows are and, for an op on float rows, how they are stored.
struct Table {
  void* data;
  std::int64_t stride;  // elements from row to row: the width, or 1 for a number per row
  Storage storage;
};

struct RowArguments {
  Table in[kMaxRows], out[kMaxRows];
  int width;
};

}  // namespace hdrm
