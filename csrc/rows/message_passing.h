// What happens to one node's row in a round of message passing; formulas in
// hdrm/ops/message_passing.py. The sum over neighbours is the caller's: here are the scales before
// and after it, and where its result goes.
#pragma once

#include <cstdint>

#include "rows/math.h"

namespace hdrm {

// Â = S·(A + λI)·T: the scales of a node of the given degree.
template <class T>
struct NodeScale {
  T after, before;  // S and T; the transpose exchanges them
  HDRM_FN NodeScale(std::int64_t degree, bool symmetric, bool transposed) {
    const T inverse = 1 / static_cast<T>(degree + 1);
    const T root = degree > 0 ? 1 / std::sqrt(static_cast<T>(degree)) : T(0);
    after = symmetric ? root : (transposed ? T(1) : inverse);
    before = symmetric ? root : (transposed ? inverse : T(1));
  }
};

// logmap0's scale of a row of width n.
template <class T, class Team>
HDRM_FN T logmap0_scale(const Team& team, const Space<T>& space, const T* x, int n) {
  return asinhc(team.template sum<T>(n, [&](int i) { return x[i] * x[i]; }) * space.c);
}

// Forward. `sum` is the node's row of (A + λI)·T·h; h ← S·sum.
//   out  ← (out, or start·x in the first round, plus h)·scale
//   next ← T·h, what the next round gathers; null in the last
template <class T, class Team>
HDRM_FN void forward_row(const Team& team, const NodeScale<T>& node, const T* sum, const T* x,
                         T start, bool first, T scale, T* out, T* next, int n) {
  team.each(n, [&](int i) {
    const T h = node.after * sum[i];
    out[i] = ((first ? start * x[i] : out[i]) + h) * scale;
  });
  if (next) team.each(n, [&](int i) { next[i] = node.before * (node.after * sum[i]); });
  if (team.leads()) {
    out[0] = 0;
    if (next) next[0] = 0;
  }
}

// Backward, one step of Horner's rule: t ← S·sum + weight·g, and next ← T·t for the next round.
template <class T, class Team>
HDRM_FN void backward_row(const Team& team, const NodeScale<T>& node, const T* sum, const T* g,
                          T weight, T* next, int n) {
  team.each(n, [&](int i) { next[i] = node.before * (node.after * sum[i] + weight * g[i]); });
  if (team.leads()) next[0] = 0;
}

// Backward, the last step: t as above times scale, then through logmap0 (if `lorentz`) to gx.
template <class T, class Team>
HDRM_FN void backward_last_row(const Team& team, const Space<T>& space, const NodeScale<T>& node,
                               const T* sum, const T* g, T weight, T scale, bool lorentz,
                               const T* x, T* gx, int n) {
  const auto t = [&](int i) { return (node.after * sum[i] + weight * g[i]) * scale; };
  T on_t = 1, on_x = 0;
  if (lorentz) {
    const T xx = team.template sum<T>(n, [&](int i) { return x[i] * x[i]; });
    const T xt = team.template sum<T>(n, [&](int i) { return x[i] * t(i); });
    on_t = asinhc(space.c * xx);
    on_x = asinhc_along(space.c * xx, on_t) * ratio(xt, xx);
  }
  team.each(n, [&](int i) { gx[i] = on_t * t(i) + on_x * x[i]; });
  if (team.leads()) gx[0] = 0;
}

}  // namespace hdrm
