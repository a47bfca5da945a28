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
template <class T, class S, class Team>
HDRM_FN T logmap0_scale(const Team& team, const Space<T>& space, const S* x, int n) {
  return asinhc(team.template sum<T>(n, [&](int i) { return T(x[i]) * T(x[i]); }) * space.c);
}

// A round but the last, a step of Horner's rule. `sum` is the node's row of (A + λI)·T·t, and s its
// row of what every round adds: t ← S·sum + s. next ← T·t, which the next round gathers; factor is
// T times the scale that makes s of `source`.
template <class T, class S, class Team>
HDRM_FN void middle_row(const Team& team, const NodeScale<T>& node, const T* sum, T factor,
                        const S* source, T* next, int n) {
  team.each(n, [&](int i) { next[i] = node.before * (node.after * sum[i]) + factor * source[i]; });
  if (team.leads()) next[0] = 0;
}

// The last round: out ← (S·sum + weight·source)·scale, from there through the gradient of logmap0
// at x, if x is not null.
template <class T, class S, class Team>
HDRM_FN void last_row(const Team& team, const Space<T>& space, const NodeScale<T>& node,
                      const T* sum, const S* source, T weight, T scale, const S* x, S* out, int n) {
  const auto t = [&](int i) { return (node.after * sum[i] + weight * source[i]) * scale; };
  if (x) {
    const T xx = team.template sum<T>(n, [&](int i) { return T(x[i]) * T(x[i]); });
    const T xt = team.template sum<T>(n, [&](int i) { return T(x[i]) * t(i); });
    const T on_t = asinhc(space.c * xx);
    const T on_x = asinhc_along(space.c * xx, on_t) * ratio(xt, xx);
    team.each(n, [&](int i) { out[i] = on_t * t(i) + on_x * T(x[i]); });
  } else {
    team.each(n, [&](int i) { out[i] = t(i); });
  }
  if (team.leads()) out[0] = 0;
}

}  // namespace hdrm
