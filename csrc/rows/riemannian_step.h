// One optimiser step on one row, in place; formulas in hdrm/ops/riemannian_step.py.
#pragma once

#include "rows/lorentz_maps.h"

namespace hdrm {

template <class T>
struct SgdOptions {
  T lr, momentum, dampening, weight_decay;
  bool nesterov;
};

template <class T>
struct AdamOptions {
  T lr, beta1, beta2, eps, weight_decay, correction1, correction2;
};

// x ← expmap(x, d) and m ← transport(x, y, m), for d(i) a function of what stands at i. m may be
// null. With y on the geodesic that leaves x with velocity d: ⟨y,m⟩ = (sinhθ/θ)·⟨d,m⟩.
template <class T, class Team, class D>
HDRM_FN void move_row(const Team& team, const Space<T>& space, T* x, T xx, D d, T* m, int n) {
  Geodesic<T> line;
  line.split(xx, team.template sum<T>(n, [&](int i) { return x[i] * d(i); }));
  line.orthogonalise(team, x, d, n);
  line.solve(space);
  T kappa = 0;
  if (m) {
    const T tau_m = ratio(team.template sum<T>(n, [&](int i) { return x[i] * m[i]; }), xx);
    const T crossing = team.template sum<T>(n, [&](int i) {
      return line.across(x[i], d(i)) * fused(-tau_m, x[i], m[i]);
    });
    const T inner = crossing + (line.tau + line.again) * tau_m * (xx * space.K / (space.K + xx));
    kappa = line.shc * inner / (2 * space.K * (1 + line.half));
  }
  const T yy = team.template each_sum<T>(n, [&](int i) {
    const T y = line.at(x[i], d(i));
    if (m) m[i] += kappa * (x[i] + y);
    x[i] = y;
    return y * y;
  });
  const T y0 = std::sqrt(space.K + yy);
  if (m) {
    const T ym = team.template sum<T>(n, [&](int i) { return x[i] * m[i]; });
    if (team.leads()) m[0] = ym / y0;
  }
  if (team.leads()) x[0] = y0;
}

// The Riemannian gradient of row x as v(i) = g(i) + share·x(i), weight decay included.
template <class T, class Team>
HDRM_FN T gradient_share(const Team& team, const Space<T>& space, const T* x, const T* g,
                         T weight_decay, T xx, int n) {
  const T xg = team.template sum<T>(n, [&](int i) { return x[i] * g[i]; });
  return space.c * (std::sqrt(space.K + xx) * g[0] + xg) +
         2 * weight_decay * (1 + space.c * xx);
}

template <class T, class Team>
HDRM_FN void sgd_row(const Team& team, const Space<T>& space, const SgdOptions<T>& o, T* x,
                     const T* g, T* m, int n) {
  const T xx = team.template sum<T>(n, [&](int i) { return x[i] * x[i]; });
  const T share = gradient_share(team, space, x, g, o.weight_decay, xx, n);
  const auto v = [&](int i) { return g[i] + share * x[i]; };
  if (!m) return move_row(team, space, x, xx, [&](int i) { return -o.lr * v(i); }, m, n);
  team.each(n, [&](int i) { m[i] = o.momentum * m[i] + (1 - o.dampening) * v(i); });
  const T on_v = o.nesterov ? -o.lr : T(0), on_m = o.nesterov ? -o.lr * o.momentum : -o.lr;
  move_row(team, space, x, xx, [&](int i) { return on_v * v(i) + on_m * m[i]; }, m, n);
}

// q is the row's second moment.
template <class T, class Team>
HDRM_FN void adam_row(const Team& team, const Space<T>& space, const AdamOptions<T>& o, T* x,
                      const T* g, T* m, T* q, int n) {
  const T xx = team.template sum<T>(n, [&](int i) { return x[i] * x[i]; });
  const T share = gradient_share(team, space, x, g, o.weight_decay, xx, n);
  const auto v = [&](int i) { return g[i] + share * x[i]; };
  Geodesic<T> gradient;
  gradient.split(xx, team.template sum<T>(n, [&](int i) { return x[i] * v(i); }));
  gradient.orthogonalise(team, x, v, n);
  gradient.solve_norm(space);
  const T second = o.beta2 * q[0] + (1 - o.beta2) * (space.K * gradient.q);
  team.each(n, [&](int i) { m[i] = o.beta1 * m[i] + (1 - o.beta1) * v(i); });
  const T scale = -o.lr / o.correction1 / (std::sqrt(second / o.correction2) + o.eps);
  if (team.leads()) q[0] = second;
  move_row(team, space, x, xx, [&](int i) { return scale * m[i]; }, m, n);
}

}  // namespace hdrm
