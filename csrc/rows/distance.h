// Lorentz distance of two rows; formulas in hdrm/ops/distance.py.
//
// With δ = xs − ys, a = |xs|, b = |ys| and P = ab − xs·ys ≥ 0, the gradient of w = sinh²(d/2r),
//   2K·∂w/∂xs = y0·xs/x0 − ys,
// subtracts nearly equal vectors. Split along and across xs it does not:
//   2K·∂w/∂xs =  (Kρ/x0 + P/a)·x̂ + δ⊥x,     δ⊥x = the part of δ orthogonal to xs,
//   2K·∂w/∂ys = (−Kρ/y0 + P/b)·ŷ − δ⊥y.
// δ⊥x is taken from δ where x and y are near, so that their difference is exact, and else from −y,
// which has the same part across x and no rounding at all; likewise δ⊥y from δ or x.
#pragma once

#include "rows/math.h"

namespace hdrm {

// What two rows x, y have to say to each other. `x` and `y` are points or tangent vectors.
template <class T>
struct Pair {
  T xx, yy, xy, along;          // |xs|², |ys|², xs·ys, δ·(xs + ys)
  T near_x, near_y;             // 1 or 0: across x look at near_x·x − y, across y at x − near_y·y
  T tau_x, tau_y;               // their shares along x and y …
  T again_x, again_y;           // … and what the second orthogonalisation finds
  T a, b, gap;                  // |xs|, |ys|, P
  T w;                          // sinh²(d/2r)
  T on_x, on_y, across;         // ∂w/∂x = on_x·x + across·δ⊥x,  ∂w/∂y = on_y·y − across·δ⊥y

  template <class Team, class X, class Y>
  HDRM_FN void measure(const Team& team, X x, Y y, int n) {
    sums<T>(
        team, n,
        [&](int i) {
          const T xi = x[i], yi = y[i], delta = xi - yi;
          return terms(xi * xi, yi * yi, xi * yi, delta * (xi + yi), delta * xi, delta * yi);
        },
        xx, yy, xy, along, tau_x, tau_y);
  }

  HDRM_FN void split() {
    const T delta2 = xx + yy - 2 * xy;
    const bool x_by_delta = 4 * delta2 < yy, y_by_delta = 4 * delta2 < xx;
    near_x = x_by_delta ? T(1) : T(0);
    near_y = y_by_delta ? T(1) : T(0);
    tau_x = ratio(x_by_delta ? tau_x : -xy, xx);
    tau_y = ratio(y_by_delta ? tau_y : xy, yy);
    a = std::sqrt(xx);
    b = std::sqrt(yy);
  }

  HDRM_FN T rest_x(T x, T y) const { return fused(-tau_x, x, near_x * x - y); }
  HDRM_FN T rest_y(T x, T y) const { return fused(-tau_y, y, x - near_y * y); }

  // Second pass: orthogonalise again, and measure the part of δ across the longer vector.
  template <class Team, class X, class Y>
  HDRM_FN void orthogonalise(const Team& team, X x, Y y, int n) {
    const bool by_x = xx >= yy;
    sums<T>(
        team, n,
        [&](int i) {
          const T xi = x[i], yi = y[i], on_x = rest_x(xi, yi), on_y = rest_y(xi, yi);
          const T rest = by_x ? on_x : on_y;
          return terms(on_x * xi, on_y * yi, rest * rest);
        },
        again_x, again_y, gap);
  }

  HDRM_FN void finish_gap() {
    const bool by_x = xx >= yy;
    const T longer = by_x ? a : b, other = by_x ? b : a;
    const T again = ratio(by_x ? again_x : again_y, longer);  // its square would overflow far out
    const T size = std::sqrt(largest(gap - again * again, T(0)));
    const T total = other + ratio(xy, longer);
    const T acute = longer * (size * ratio(size, total));
    gap = xy > 0 ? acute : a * b - xy;
    again_x = ratio(again_x, xx);
    again_y = ratio(again_y, yy);
  }

  // w and its gradient for points of the hyperboloid.
  HDRM_FN void solve_points(const Space<T>& s) {
    finish_gap();
    const T x0 = std::sqrt(s.K + xx), y0 = std::sqrt(s.K + yy);
    const T rho = ratio(along, a * y0 + b * x0);
    w = rho * (rho / (2 * (1 + std::sqrt(1 + rho * rho)))) + gap * s.c / 2;
    across = s.c / 2;
    on_x = across * ratio(s.K * rho / x0 + ratio(gap, a), a);
    on_y = across * ratio(-s.K * rho / y0 + ratio(gap, b), b);
  }

  // The same for the exponential maps of tangent vectors at the origin.
  HDRM_FN void solve_tangents(const Space<T>& s) {
    finish_gap();
    const T radial = ratio(along, a + b), half = radial * radial * (s.c / 4);
    const T su = sinhc(xx * s.c, s.limit), sv = sinhc(yy * s.c, s.limit);
    const T shalf = sinhc(half, s.limit);
    w = half * shalf * shalf + su * (gap * (s.c / 2)) * sv;
    // sinhΔ = 2·sinh(Δ/2)·cosh(Δ/2), coshρ = √(1 + sinh²ρ)
    const T sinh_delta = radial * s.root_c * shalf * std::sqrt(1 + half * shalf * shalf);
    const T cosh_u = std::sqrt(1 + xx * s.c * su * su), cosh_v = std::sqrt(1 + yy * s.c * sv * sv);
    across = s.c / 2 * su * sv;
    on_x = s.root_c / 2 * ratio(sinh_delta + cosh_u * (s.root_c * sv * ratio(gap, a)), a);
    on_y = s.root_c / 2 * ratio(-sinh_delta + cosh_v * (s.root_c * su * ratio(gap, b)), b);
  }

  template <class X, class Y>
  HDRM_FN T slope_x(X x, Y y, int i) const {
    return on_x * x[i] + across * (rest_x(x[i], y[i]) - again_x * x[i]);
  }
  template <class X, class Y>
  HDRM_FN T slope_y(X x, Y y, int i) const {
    return on_y * y[i] - across * (rest_y(x[i], y[i]) - again_y * y[i]);
  }

  HDRM_FN T squared(const Space<T>& s) const {
    const T arc_length = asinhc(w);
    return 4 * s.K * w * arc_length * arc_length;
  }
};

enum class Metric { kDistance, kSquared, kSquaredTangent };

// in: x, y;  out: one number per row.
template <class T, Metric metric>
struct Distance {
  static constexpr int kIn = 2, kOut = 1, kPasses = 2;
  struct State {
    Pair<T> p;
    T value;
  };

  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    if constexpr (pass == 0) s.p.measure(team, in[0], in[1], n);
    if constexpr (pass == 1) s.p.orthogonalise(team, in[0], in[1], n);
  }

  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) return s.p.split();
    if constexpr (metric == Metric::kSquaredTangent) {
      s.p.solve_tangents(k);
    } else {
      s.p.solve_points(k);
    }
    s.value = metric == Metric::kDistance ? 2 * k.r * std::sqrt(s.p.w) * asinhc(s.p.w)
                                          : s.p.squared(k);
  }

  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In, Out out, int, const State& s) {
    if (team.leads()) out[0][0] = s.value;
  }
};

// in: the gradient of the number, x, y;  out: the gradients of x and y.
template <class T, Metric metric>
struct DistanceBackward {
  static constexpr int kIn = 3, kOut = 2, kPasses = 2;
  struct State {
    Pair<T> p;
    T scale;
  };

  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    if constexpr (pass == 0) {
      s.p.measure(team, in[1], in[2], n);
      s.scale = in[0][0];
    }
    if constexpr (pass == 1) s.p.orthogonalise(team, in[1], in[2], n);
  }

  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass == 0) return s.p.split();
    if constexpr (metric == Metric::kSquaredTangent) {
      s.p.solve_tangents(k);
    } else {
      s.p.solve_points(k);
    }
    if constexpr (metric == Metric::kDistance) {  // dd/dw = r/(√w·√(1+w)), taken as 0 at w = 0
      s.scale *= ratio(k.r, std::sqrt(s.p.w) * std::sqrt(1 + s.p.w));
    } else {
      s.scale *= 4 * k.K * arc(s.p.w);
    }
  }

  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto x = in[1], y = in[2];
    const auto gx = out[0], gy = out[1];
    team.each(n, [&](int i) {
      gx[i] = s.scale * s.p.slope_x(x, y, i);
      gy[i] = s.scale * s.p.slope_y(x, y, i);
    });
    if (team.leads()) gx[0] = gy[0] = 0;
  }
};

}  // namespace hdrm
