// Exponential and logarithmic maps, projections and transport on one row; formulas in
// hdrm/ops/lorentz_maps.py.
//
// A row op is a struct of three kinds of steps, so that a loop over rows can run the middle one
// for many rows at once:
//   reduce<pass>   sums over the row                      (a team)
//   solve<pass>    scalars from the sums                  (one thread, or one SIMD lane, per row)
//   store          the output row from row and scalars    (a team)
// Its rows may be any type that reads and writes a T at an index. A row op with kWide computes in
// double for float rows: rows/wide.h.
#pragma once

#include "rows/distance.h"
#include "rows/math.h"
#include "rows/wide.h"

namespace hdrm {

// in: u;  out: y.
template <class T>
struct ExpMap0 {
  static constexpr int kIn = 1, kOut = 1, kPasses = 1;
  struct State {
    T uu, scale, y0;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    const auto u = in[0];
    s.uu = team.template sum<T>(n, [&](int i) { return u[i] * u[i]; });
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.scale = sinhc(s.uu * k.c, k.limit);
    s.y0 = std::sqrt(k.K + s.scale * (s.scale * s.uu));
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto u = in[0];
    const auto y = out[0];
    team.each(n, [&](int i) { y[i] = s.scale * u[i]; });
    if (team.leads()) y[0] = s.y0;
  }
};

// in: x;  out: u.
template <class T>
struct LogMap0 {
  static constexpr int kIn = 1, kOut = 1, kPasses = 1;
  struct State {
    T xx, scale;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    const auto x = in[0];
    s.xx = team.template sum<T>(n, [&](int i) { return x[i] * x[i]; });
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.scale = asinhc(s.xx * k.c);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0];
    const auto u = out[0];
    team.each(n, [&](int i) { u[i] = s.scale * x[i]; });
    if (team.leads()) u[0] = 0;
  }
};

// in: x;  out: the point with x's spatial part.
template <class T>
struct Project {
  static constexpr int kIn = 1, kOut = 1, kPasses = 1;
  using State = typename LogMap0<T>::State;
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    LogMap0<T>::template reduce<pass>(team, in, out, n, s);
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.scale = std::sqrt(k.K + s.xx);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0];
    const auto y = out[0];
    team.each(n, [&](int i) { y[i] = x[i]; });
    if (team.leads()) y[0] = s.scale;
  }
};

// |xs|² and xs·vs of a point and a vector, and x0: all that the projections need.
template <class T>
struct PointVector {
  T xx, xv, x0;
  template <class Team, class X, class V>
  HDRM_FN void measure(const Team& team, X x, V v, int n) {
    sums<T>(team, n, [&](int i) { return terms(x[i] * x[i], x[i] * v[i]); }, xx, xv);
  }
  HDRM_FN void solve(const Space<T>& k) { x0 = std::sqrt(k.K + xx); }
};

// in: x, v;  out: the tangent vector at x with v's spatial part.
template <class T>
struct ProjectTangent {
  static constexpr int kIn = 2, kOut = 1, kPasses = 1;
  static constexpr bool kWide = true;
  using State = PointVector<T>;
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    s.measure(team, in[0], in[1], n);
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.solve(k);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto v = in[1];
    const auto y = out[0];
    team.each(n, [&](int i) { y[i] = v[i]; });
    if (team.leads()) y[0] = s.xv / s.x0;
  }
};

// in: x, g;  out: v = gs + share·xs and its time coordinate.
template <class T>
struct EgradToRgrad {
  static constexpr int kIn = 2, kOut = 1, kPasses = 1;
  static constexpr bool kWide = true;
  struct State {
    PointVector<T> p;
    T g0, share, v0;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    s.p.measure(team, in[0], in[1], n);
    s.g0 = in[1][0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.p.solve(k);
    s.share = k.c * (s.p.x0 * s.g0 + s.p.xv);
    s.v0 = k.c * (s.p.x0 * s.p.xv + s.g0 * s.p.xx);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0], g = in[1];
    const auto v = out[0];
    team.each(n, [&](int i) { v[i] = g[i] + s.share * x[i]; });
    if (team.leads()) v[0] = s.v0;
  }
};

// v split along and across xs, and the geodesic that starts at x with velocity v:
// ys = cosh·xs + shc·vs = (from + turn)·xs + side·v⊥. Shared by the exponential map and the
// optimiser.
template <class T>
struct Geodesic {
  T xx, tau, again, rest2;  // v = (tau + again)·x + v⊥, |v⊥|²
  T q, half, shc;           // (‖v‖/r)², w = sinh²(‖v‖/2r), sinhθ/θ; coshθ = 1 + 2w
  T keep;                   // 1, or less where the end lies beyond the range and is drawn back
  T from, turn, side;       // `from` is 1, or 0 where nothing of xs is worth keeping apart

  template <class Team, class X, class V>
  HDRM_FN void orthogonalise(const Team& team, X x, V v, int n) {
    sums<T>(
        team, n,
        [&](int i) {
          const T found = rest(x[i], v(i));
          return terms(found * x[i], found * found);
        },
        again, rest2);
  }
  HDRM_FN T rest(T x, T v) const { return fused(-tau, x, v); }  // v⊥ after one pass …
  HDRM_FN T across(T x, T v) const { return rest(x, v) - again * x; }  // … and after both

  // xx = |xs|² and xv = xs·vs open the two passes.
  HDRM_FN void split(T xx_, T xv) {
    xx = xx_;
    tau = ratio(xv, xx);
  }
  // After them: q, from ‖v‖² = |v⊥|² + K(v·x̂)²/x0².
  HDRM_FN void solve_norm(const Space<T>& k) {
    const T found = ratio(again, T(std::sqrt(xx)));  // the square of `again` overflows far out
    rest2 = largest(rest2 - found * found, T(0));
    again = ratio(again, xx);
    q = k.c * rest2 + (tau + again) * ((tau + again) * (xx / (k.K + xx)));
  }
  HDRM_FN void solve(const Space<T>& k) {
    solve_norm(k);
    const T capped = smallest(q, k.limit * k.limit), s = sinhc(capped / 4, k.limit);
    half = capped / 4 * s * s;
    shc = sinhc(q, k.limit);
    // A step towards the origin makes cosh·a and shc·(v·x̂), a = |xs|, nearly cancel. With α the
    // angle between v and the ray, cosα < 0, and ρ = asinh(a/r), their sum is
    //   r·sinh(ρ − θ) + x0·sinhθ·(1 + cosα),    1 + cosα = sin²α/(1 − cosα).
    const T z2 = k.c * xx, z = std::sqrt(z2), x0_over_r = std::sqrt(1 + z2), theta = std::sqrt(q);
    const T along = (tau + again) * ratio(z, x0_over_r), off2 = k.c * rest2;  // θ·cosα, (θ·sinα)²
    const T turns = ratio(z + x0_over_r, exponential(smallest(theta, k.limit)));  // e^(ρ − θ)
    const T inward = (turns - 1 / turns) / 2 +
                     x0_over_r * (theta * shc) * ratio(off2, q - theta * along);
    const bool far_inward = along < 0 && q > 1;
    from = far_inward ? T(0) : T(1);
    turn = far_inward ? ratio(inward, z) : 2 * half + shc * (tau + again);
    // Beyond the largest radius the point stays there, in its direction.
    const T on = (from + turn) * (z * k.inverse_reach), off = shc * k.inverse_reach;
    const T over = on * on + off * (off * off2);
    keep = over > 1 ? 1 / std::sqrt(over) : T(1);
    from *= keep;
    turn *= keep;
    // On the ray v⊥ is rounding, which shc may be large enough to blow up.
    side = rest2 > 0 || along * along == 0 ? keep * shc : T(0);
  }
  HDRM_FN T at(T x, T v) const {
    return from * x + (turn * x + side * across(x, v));
  }
};

// in: x, v;  out: y.
template <class T>
struct ExpMap {
  static constexpr int kIn = 2, kOut = 1, kPasses = 2;
  static constexpr bool kWide = true;
  struct State {
    PointVector<T> p;
    Geodesic<T> line;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    if constexpr (pass == 0) s.p.measure(team, in[0], in[1], n);
    if constexpr (pass == 1) s.line.orthogonalise(team, in[0], [&](int i) { return in[1][i]; }, n);
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) s.line.split(s.p.xx, s.p.xv);
    if constexpr (pass == 1) s.line.solve(k);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>& k, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0], v = in[1];
    const auto y = out[0];
    const T yy = team.template each_sum<T>(n, [&](int i) {
      const T value = s.line.at(x[i], v[i]);
      y[i] = value;
      return value * value;
    });
    if (team.leads()) y[0] = std::sqrt(k.K + yy);
  }
};

// in: x, y;  out: v.
template <class T>
struct LogMap {
  static constexpr int kIn = 2, kOut = 1, kPasses = 2;
  static constexpr bool kWide = true;
  struct State {
    Pair<T> p;
    T arc, shrink;  // φ(w), 2wφ: far out w·xs overflows, wφ does not
    HDRM_FN T at(T x, T y) const { return arc * (y - x) - shrink * x; }
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    if constexpr (pass == 0) s.p.measure(team, in[0], in[1], n);
    if constexpr (pass == 1) s.p.orthogonalise(team, in[0], in[1], n);
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) return s.p.split();
    s.p.solve_points(k);
    s.arc = hdrm::arc(s.p.w);
    s.shrink = 2 * (s.p.w * s.arc);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>& k, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0], y = in[1];
    const auto v = out[0];
    const T xv = team.template each_sum<T>(n, [&](int i) {
      const T value = s.at(x[i], y[i]);
      v[i] = value;
      return x[i] * value;
    });
    if (team.leads()) v[0] = xv / std::sqrt(k.K + s.p.xx);
  }
};

// in: x, y, v;  out: z = vs + κ·(xs + ys), κ = ⟨y,v⟩/(2K(1+w)), made tangent at y. With
// ⟨y,v⟩ = −(2K·∂w/∂xs)·vs the inner product inherits the cancellation-free split of the gradient.
template <class T>
struct Transport {
  static constexpr int kIn = 3, kOut = 1, kPasses = 2;
  static constexpr bool kWide = true;
  struct State {
    Pair<T> p;
    T xv, tau_v, crossing, x0, y0, v0, twice, kappa;  // v = tau_v·x + v⊥, twice = 2K(1+w)
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    const auto x = in[0], y = in[1], v = in[2];
    if constexpr (pass == 0) {
      s.p.measure(team, x, y, n);
      s.xv = team.template sum<T>(n, [&](int i) { return x[i] * v[i]; });
    }
    if constexpr (pass == 1) {
      s.p.orthogonalise(team, x, y, n);
      s.crossing = team.template sum<T>(
          n, [&](int i) { return s.p.rest_x(x[i], y[i]) * (v[i] - s.tau_v * x[i]); });
    }
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) {
      s.tau_v = ratio(s.xv, s.p.xx);
      return s.p.split();
    }
    s.p.solve_points(k);
    s.x0 = std::sqrt(k.K + s.p.xx);
    s.y0 = std::sqrt(k.K + s.p.yy);
    s.v0 = s.xv / s.x0;
    s.twice = 2 * k.K * (1 + s.p.w);
    s.kappa = -(s.crossing + 2 * k.K * s.p.on_x * s.xv) / s.twice;
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto x = in[0], y = in[1], v = in[2];
    const auto z = out[0];
    const T yz = team.template each_sum<T>(n, [&](int i) {
      const T value = v[i] + s.kappa * (x[i] + y[i]);
      z[i] = value;
      return y[i] * value;
    });
    if (team.leads()) z[0] = yz / s.y0;
  }
};

}  // namespace hdrm
