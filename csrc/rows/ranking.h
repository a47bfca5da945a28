// Hinge on the squared distances of a row's positive and negative, and which item a negative draw
// means; formulas in hdrm/ops/ranking.py.
#pragma once

#include <cstdint>

#include "rows/distance.h"
#include "rows/philox.h"

namespace hdrm {

// in: u, pos, neg (tangent vectors at the origin);  out: max(0, d²(u,pos) − d²(u,neg) + margin).
template <class T>
struct MarginRanking {
  static constexpr int kIn = 3, kOut = 1, kPasses = 2;
  struct State {
    Pair<T> pos, neg;
    T hinge;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    if constexpr (pass == 0) {
      s.pos.measure(team, in[0], in[1], n);
      s.neg.measure(team, in[0], in[2], n);
    } else {
      s.pos.orthogonalise(team, in[0], in[1], n);
      s.neg.orthogonalise(team, in[0], in[2], n);
    }
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) {
      s.pos.split();
      s.neg.split();
    } else {
      s.pos.solve_tangents(k);
      s.neg.solve_tangents(k);
      const T excess = s.pos.squared(k) - s.neg.squared(k) + k.margin;
      s.hinge = excess <= 0 ? T(0) : excess;  // NaN stays NaN
    }
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In, Out out, int, const State& s) {
    if (team.leads()) out[0][0] = s.hinge;
  }
};

// in: the gradient of the hinge, u, pos, neg;  out: gu, gpos, gneg.
template <class T>
struct MarginRankingBackward {
  static constexpr int kIn = 4, kOut = 3, kPasses = 2;
  struct State {
    typename MarginRanking<T>::State f;
    T of_pos, of_neg;  // gradients of d²(u,pos) and d²(u,neg), times ∂d²/∂w
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    MarginRanking<T>::template reduce<pass>(team, in + 1, out, n, s.f);
    s.of_pos = in[0][0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    MarginRanking<T>::template solve<pass>(k, s.f);
    if constexpr (pass == 1) {
      const T active = s.f.hinge == 0 ? T(0) : 4 * k.K * s.of_pos;
      s.of_pos = active * arc(s.f.pos.w);
      s.of_neg = -active * arc(s.f.neg.w);
    }
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto u = in[1], pos = in[2], neg = in[3];
    const auto gu = out[0], gpos = out[1], gneg = out[2];
    team.each(n, [&](int i) {
      gu[i] = s.of_pos * s.f.pos.slope_x(u, pos, i) + s.of_neg * s.f.neg.slope_x(u, neg, i);
      gpos[i] = s.of_pos * s.f.pos.slope_y(u, pos, i);
      gneg[i] = s.of_neg * s.f.neg.slope_y(u, neg, i);
    });
    if (team.leads()) gu[0] = gpos[0] = gneg[0] = 0;
  }
};

// x0 − r of a point: a ratio of what is not negative.
template <class T, class Team>
HDRM_FN T height(const Team& team, const Space<T>& space, const T* x, int n) {
  const T xx = team.template sum<T>(n, [&](int i) { return x[i] * x[i]; });
  return xx / (std::sqrt(space.K + xx) + space.r);
}

// d(x, y).
template <class T, class Team>
HDRM_FN T point_distance(const Team& team, const Space<T>& space, const T* x, const T* y, int n) {
  using Op = Distance<T, Metric::kDistance>;
  const T* const in[] = {x, y};
  typename Op::State state;
  Op::template reduce<0>(team, in, nullptr, n, state);
  Op::template solve<0>(space, state);
  Op::template reduce<1>(team, in, nullptr, n, state);
  Op::template solve<1>(space, state);
  return state.value;
}

// How many of the seen items are below `item`; seen[j] − offset ascend.
HDRM_FN std::int64_t seen_below(const std::int32_t* seen, std::int64_t count, std::int64_t offset,
                                std::int64_t item) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    const bool below = seen[middle] - offset < item;
    low = below ? middle + 1 : low;
    high = below ? high : middle;
  }
  return low;
}

// The item of rank `rank` (from 0) among those not seen; seen[j] − offset ascend. It is rank + j,
// where j counts the seen items s_j with s_j − j ≤ rank: binary search, as s_j − j never falls.
HDRM_FN std::int64_t unseen_item(const std::int32_t* seen, std::int64_t count, std::int64_t offset,
                                 std::int64_t rank) {
  std::int64_t low = 0, high = count;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    const bool before = seen[middle] - offset - middle <= rank;
    low = before ? middle + 1 : low;
    high = before ? high : middle;
  }
  return rank + low;
}

}  // namespace hdrm
