// Gradients of the maps in rows/lorentz_maps.h, as row ops of the same make. Their first input rows
// are the gradients of the map's result; a point's or tangent vector's time coordinate gets 0.
#pragma once

#include "rows/lorentz_maps.h"

namespace hdrm {

// Gradient rows of the form on_g·g + on_x·x with a time coordinate of 0: the backward of the maps
// that scale a row or lift it. in: g, x;  out: gx.
template <class T, class Coefficients>
struct ScaledBackward {
  static constexpr int kIn = 2, kOut = 1, kPasses = 1;
  struct State {
    T xx, xg, g0, on_g, on_x;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    const auto g = in[0], x = in[1];
    sums<T>(team, n, [&](int i) { return terms(x[i] * x[i], x[i] * g[i]); }, s.xx, s.xg);
    s.g0 = g[0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    Coefficients::of(k, s);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto g = in[0], x = in[1];
    const auto gx = out[0];
    team.each(n, [&](int i) { gx[i] = s.on_g * g[i] + s.on_x * x[i]; });
    if (team.leads()) gx[0] = 0;
  }
};

template <class T>
struct ExpMap0Gradient {
  template <class State>
  static HDRM_FN void of(const Space<T>& k, State& s) {
    const T q = s.xx * k.c;
    s.on_g = sinhc(q, k.limit);
    const T inside = sinhc_slope(q, k.limit) * s.xg * k.c + s.g0 * s.on_g * k.root_c;
    s.on_x = q > k.limit * k.limit ? -s.on_g * ratio(s.xg, s.xx) : inside;
  }
};

template <class T>
struct LogMap0Gradient {
  template <class State>
  static HDRM_FN void of(const Space<T>& k, State& s) {
    const T q = s.xx * k.c;
    s.on_g = asinhc(q);
    s.on_x = asinhc_along(q, s.on_g) * ratio(s.xg, s.xx);
  }
};

template <class T>
struct ProjectGradient {
  template <class State>
  static HDRM_FN void of(const Space<T>& k, State& s) {
    s.on_g = 1;
    s.on_x = s.g0 / std::sqrt(k.K + s.xx);
  }
};

template <class T>
using ExpMap0Backward = ScaledBackward<T, ExpMap0Gradient<T>>;
template <class T>
using LogMap0Backward = ScaledBackward<T, LogMap0Gradient<T>>;
template <class T>
using ProjectBackward = ScaledBackward<T, ProjectGradient<T>>;

// in: g, x, v;  out: gx, gv. With v0 = xs·vs/x0: ∂v0/∂vs = xs/x0, ∂v0/∂xs = (vs − (v0/x0)·xs)/x0.
template <class T>
struct ProjectTangentBackward {
  static constexpr int kIn = 3, kOut = 2, kPasses = 1;
  static constexpr bool kWide = true;
  struct State {
    PointVector<T> p;
    T time, shift;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out, int n, State& s) {
    s.p.measure(team, in[1], in[2], n);
    s.time = in[0][0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    s.p.solve(k);
    s.time /= s.p.x0;
    s.shift = s.p.xv / (k.K + s.p.xx);
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto g = in[0], x = in[1], v = in[2];
    const auto gx = out[0], gv = out[1];
    team.each(n, [&](int i) {
      gx[i] = s.time * (v[i] - s.shift * x[i]);
      gv[i] = g[i] + s.time * x[i];
    });
    if (team.leads()) gx[0] = gv[0] = 0;
  }
};

// in: h (the gradient of v), x, g;  out: gx, gg. g's time coordinate is read, so it has one too.
template <class T>
struct EgradToRgradBackward {
  static constexpr int kIn = 3, kOut = 2, kPasses = 1;
  static constexpr bool kWide = true;
  struct State {
    typename EgradToRgrad<T>::State f;
    T xh, h0, of_share, on_x, on_g;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    const auto h = in[0], x = in[1];
    EgradToRgrad<T>::template reduce<pass>(team, in + 1, out, n, s.f);
    s.xh = team.template sum<T>(n, [&](int i) { return x[i] * h[i]; });
    s.h0 = h[0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    EgradToRgrad<T>::template solve<pass>(k, s.f);
    const T x0 = s.f.p.x0, time = s.h0 / x0;
    s.of_share = k.c * (s.xh + time * s.f.p.xx);
    s.on_x = 2 * s.f.share * time + s.of_share * s.f.g0 / x0 - time * s.f.v0 / x0;
    s.on_g = s.of_share + time;
    s.h0 = time;
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto h = in[0], x = in[1], g = in[2];
    const auto gx = out[0], gg = out[1];
    team.each(n, [&](int i) {
      gx[i] = s.f.share * h[i] + s.on_x * x[i] + s.on_g * g[i];
      gg[i] = h[i] + (s.h0 + s.of_share) * x[i];
    });
    if (team.leads()) {
      gx[0] = 0;
      gg[0] = s.of_share * s.f.p.x0;
    }
  }
};

// in: g, x, v;  out: gx, gv.
//   h = gs + (g0/y0)·ys,  t = vs − (v0/x0)·xs = v⊥ + τ(K/x0²)·xs,
//   e = sinhc·(h·xs) + slope·(h·vs)        (the gradient of q, doubled)
//   gv = sinhc·h + c·e·t,   gx = cosh·h − c·e·(v0/x0)·t
// Where y was drawn back to the largest radius, it only turns: h is keep·(gs − (gs·ŷ)·ŷ).
template <class T>
struct ExpMapBackward {
  static constexpr int kIn = 3, kOut = 2, kPasses = 3;
  static constexpr bool kWide = true;
  struct State {
    typename ExpMap<T>::State f;
    T yy, yx, yv, gx, gv, gy, time, e, v0_over_x0, tau_left;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    if constexpr (pass < 2) return ExpMap<T>::template reduce<pass>(team, in + 1, out, n, s.f);
    const auto g = in[0], x = in[1], v = in[2];
    sums<T>(
        team, n,
        [&](int i) {
          const T gi = g[i], xi = x[i], vi = v[i], y = s.f.line.at(xi, vi);
          return terms(y * y, y * xi, y * vi, gi * xi, gi * vi, gi * y);
        },
        s.yy, s.yx, s.yv, s.gx, s.gv, s.gy);
    s.time = g[0];
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass < 2) return ExpMap<T>::template solve<pass>(k, s.f);
    const T x02 = k.K + s.f.p.xx, keep = s.f.line.keep;
    s.time = keep < 1 ? -s.gy / s.yy : s.time / std::sqrt(k.K + s.yy);
    s.v0_over_x0 = s.f.p.xv / x02;
    s.tau_left = (s.f.line.tau + s.f.line.again) * (k.K / x02);
    s.e = k.c * keep * (s.f.line.shc * (s.gx + s.time * s.yx) +
                        sinhc_slope(s.f.line.q, k.limit) * (s.gv + s.time * s.yv));
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto g = in[0], x = in[1], v = in[2];
    const auto gx = out[0], gv = out[1];
    const Geodesic<T>& line = s.f.line;
    team.each(n, [&](int i) {
      const T h = line.keep * (g[i] + s.time * line.at(x[i], v[i]));
      const T t = line.across(x[i], v[i]) + s.tau_left * x[i];
      gx[i] = h + 2 * line.half * h - s.e * s.v0_over_x0 * t;
      gv[i] = line.shc * h + s.e * t;
    });
    if (team.leads()) gx[0] = gv[0] = 0;
  }
};

// in: g, x, y;  out: gx, gy. With h = gs + (g0/x0)·xs:
//   e = (φ'(w)/φ)·(h·vs) − 2φ·(h·xs)
//   gy = φ·h + e·∂w/∂ys,   gx = (g0/x0)·(vs − (v0/x0)·xs) − (1+2w)φ·h + e·∂w/∂xs
template <class T>
struct LogMapBackward {
  static constexpr int kIn = 3, kOut = 2, kPasses = 3;
  static constexpr bool kWide = true;
  struct State {
    typename LogMap<T>::State f;
    T hv, hx, time, shift, e, back;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    if constexpr (pass < 2) {
      LogMap<T>::template reduce<pass>(team, in + 1, out, n, s.f);
      s.time = in[0][0];
    } else {
      const auto g = in[0], x = in[1], y = in[2];
      sums<T>(
          team, n,
          [&](int i) {
            const T xi = x[i], v = s.f.at(xi, y[i]), h = g[i] + s.time * xi;
            return terms(h * v, h * xi, xi * v);
          },
          s.hv, s.hx, s.shift);
    }
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass < 2) LogMap<T>::template solve<pass>(k, s.f);
    const T x02 = k.K + s.f.p.xx;
    if constexpr (pass == 1) s.time /= std::sqrt(x02);
    if constexpr (pass == 2) {
      s.shift /= x02;
      s.e = 2 * ratio(arc_along(s.f.p.w, s.f.arc) * s.hv, s.f.shrink) - 2 * s.f.arc * s.hx;
      s.back = s.f.arc + s.f.shrink;
    }
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>&, In in, Out out, int n,
                            const State& s) {
    const auto g = in[0], x = in[1], y = in[2];
    const auto gx = out[0], gy = out[1];
    team.each(n, [&](int i) {
      const T h = g[i] + s.time * x[i];
      const T v = s.f.at(x[i], y[i]);
      gx[i] = s.time * (v - s.shift * x[i]) - s.back * h + s.e * s.f.p.slope_x(x, y, i);
      gy[i] = s.f.arc * h + s.e * s.f.p.slope_y(x, y, i);
    });
    if (team.leads()) gx[0] = gy[0] = 0;
  }
};

// in: g, x, y, v;  out: gx, gy, gv. With h = gs + (g0/y0)·ys, e = h·(xs + ys)/(2K(1+w)) and
// N = ⟨y,v⟩ = ys·vs − y0·v0:
//   gv = h − e·(y0·xs/x0 − ys)
//   gx = κ·h − e·(y0/x0)·(vs − (v0/x0)·xs) − e·κ·2K·∂w/∂xs
//   gy = κ·h + (g0/y0)·(zs − (z0/y0)·ys) + e·(vs − (v0/y0)·ys) − e·κ·2K·∂w/∂ys
template <class T>
struct TransportBackward {
  static constexpr int kIn = 4, kOut = 3, kPasses = 3;
  static constexpr bool kWide = true;
  struct State {
    typename Transport<T>::State f;
    T time, hs, yz, e;
  };
  template <int pass, class Team, class In, class Out>
  static HDRM_FN void reduce(const Team& team, In in, Out out, int n, State& s) {
    if constexpr (pass < 2) {
      Transport<T>::template reduce<pass>(team, in + 1, out, n, s.f);
      s.time = in[0][0];
    } else {
      const auto g = in[0], x = in[1], y = in[2], v = in[3];
      sums<T>(
          team, n,
          [&](int i) {
            const T yi = y[i], both = x[i] + yi;
            return terms((g[i] + s.time * yi) * both, yi * (v[i] + s.f.kappa * both));
          },
          s.hs, s.yz);
    }
  }
  template <int pass>
  static HDRM_FN void solve(const Space<T>& k, State& s) {
    if constexpr (pass < 2) Transport<T>::template solve<pass>(k, s.f);
    if constexpr (pass == 1) s.time /= s.f.y0;
    if constexpr (pass == 2) s.e = s.hs / s.f.twice;
  }
  template <class Team, class In, class Out>
  static HDRM_FN void store(const Team& team, const Space<T>& k, In in, Out out, int n,
                            const State& s) {
    const auto g = in[0], x = in[1], y = in[2], v = in[3];
    const auto gx = out[0], gy = out[1], gv = out[2];
    const T kappa = s.f.kappa, by_w = s.e * kappa * 2 * k.K;
    const T z_shift = s.yz / (s.f.y0 * s.f.y0);
    const T tau_left = s.f.tau_v * (k.K / (k.K + s.f.p.xx));  // vs − (v0/x0)·xs = v⊥ + tau_left·xs
    const T v_shift_y = s.f.v0 / s.f.y0, e_x = s.e * s.f.y0 / s.f.x0;
    team.each(n, [&](int i) {
      const T h = g[i] + s.time * y[i];
      const T z = v[i] + kappa * (x[i] + y[i]);
      const T wx = s.f.p.slope_x(x, y, i);
      gv[i] = h - s.e * 2 * k.K * wx;
      gx[i] = kappa * h - e_x * ((v[i] - s.f.tau_v * x[i]) + tau_left * x[i]) - by_w * wx;
      gy[i] = kappa * h + s.time * (z - z_shift * y[i]) + s.e * (v[i] - v_shift_y * y[i]) -
              by_w * s.f.p.slope_y(x, y, i);
    });
    if (team.leads()) gx[0] = gy[0] = gv[0] = 0;
  }
};

}  // namespace hdrm
