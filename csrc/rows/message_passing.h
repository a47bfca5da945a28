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

// What the first round gathers, if that is a table: next ← factor·source.
template <class T, class S, class W, class Team>
HDRM_FN void first_row(const Team& team, T factor, const S* source, W* next, int n) {
  team.each(n, [&](int i) { next[i] = factor * source[i]; });
  if (team.leads()) next[0] = 0;
}

// A round but the last, a step of Horner's rule. `sum` is the node's row of (A + λI)·T·t, and s its
// row of what every round adds: t ← S·sum + s. next ← T·t, which the next round gathers; factor is
// T times the scale that makes s of `source`.
template <class T, class S, class W, class Team>
HDRM_FN void middle_row(const Team& team, const NodeScale<T>& node, const T* sum, T factor,
                        const S* source, W* next, int n) {
  team.each(n, [&](int i) { next[i] = node.before * (node.after * sum[i]) + factor * source[i]; });
  if (team.leads()) next[0] = 0;
}

// out ← the gradient t through logmap0 at x; t(i) gives its numbers.
template <class T, class S, class Team, class F>
HDRM_FN void through_logmap0(const Team& team, const Space<T>& space, const S* x, F t, S* out,
                             int n) {
  const T xx = team.template sum<T>(n, [&](int i) { return T(x[i]) * T(x[i]); });
  const T xt = team.template sum<T>(n, [&](int i) { return T(x[i]) * t(i); });
  const T on_t = asinhc(space.c * xx);
  const T on_x = asinhc_along(space.c * xx, on_t) * ratio(xt, xx);
  team.each(n, [&](int i) { out[i] = on_t * t(i) + on_x * T(x[i]); });
}

// The last round: out ← (S·sum + weight·source)·scale, from there through the gradient of logmap0
// at x, if x is not null.
template <class T, class S, class Team>
HDRM_FN void last_row(const Team& team, const Space<T>& space, const NodeScale<T>& node,
                      const T* sum, const S* source, T weight, T scale, const S* x, S* out, int n) {
  const auto t = [&](int i) { return (node.after * sum[i] + weight * source[i]) * scale; };
  if (x) {
    through_logmap0<T>(team, space, x, t, out, n);
  } else {
    team.each(n, [&](int i) { out[i] = t(i); });
  }
  if (team.leads()) out[0] = 0;
}

// How a round of a propagation ends.
template <class T>
struct RoundEnd {
  Space<T> space;
  bool symmetric, transposed;  // the kind of Â, and whether it is Âᵀ
  bool of_points;              // source holds points, and s is their logmap0
  bool through_map;            // the result goes through the gradient of logmap0 at x
  bool of_source;  // what is gathered is factor·source, and no table
  bool last;
  T weight, scale;  // of s in the last round, and of its result
};

// A node's row of the round, from `sum`, its row of A·T·t, which is spent. What was gathered has
// the row `table`, or is factor·source. Fills `next`, or in the last round `out`. Tables of W may
// be narrower than T: a row is rounded where it is written.
template <class T, class S, class W, class Team>
HDRM_FN void settle_row(const Team& team, const RoundEnd<T>& end, std::int64_t degree, T* sum,
                        const W* table, T factor, const S* source, const S* x, W* next, S* out,
                        int n) {
  if (!end.symmetric && end.of_source) {  // λ = 1: the node itself
    team.each(n, [&](int i) { sum[i] += factor * source[i]; });
  } else if (!end.symmetric) {
    team.each(n, [&](int i) { sum[i] += table[i]; });
  }
  const NodeScale<T> node(degree, end.symmetric, end.transposed);
  if (!end.last) return middle_row(team, node, sum, factor, source, next, n);
  const bool maps = end.of_points && end.weight != 0;
  const T weight = maps ? logmap0_scale(team, end.space, source, n) : end.weight;
  if (end.through_map) {
    last_row(team, end.space, node, sum, source, weight, end.scale, x, out, n);
  } else {
    const S* const none = nullptr;
    last_row(team, end.space, node, sum, source, weight, end.scale, none, out, n);
  }
}

}  // namespace hdrm
