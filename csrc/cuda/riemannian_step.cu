// The optimisers' steps, in place. As in row_kernel.cuh a narrow row is held by a team and a wide
// one is swept over by a block.
#include "ops/riemannian_step.h"

#include "cuda/row_kernel.cuh"

namespace hdrm::cuda {
namespace {

template <class T>
struct Tables {
  T* x;
  const T* grad;
  T *moment, *second;
  std::int64_t rows;
  int width;
  bool quads;
};

// A step: its options, and what it does to a row. With kMoment there is a table `moment`, with
// kSecond `second` too.
template <class T, bool kMoment_>
struct Sgd {
  static constexpr bool kMoment = kMoment_, kSecond = false;
  SgdOptions<T> options;
  template <class Team>
  __device__ __forceinline__ void run(const Team& team, const Space<T>& space, T* x, const T* g,
                                      T* m, T*, int n) const {
    sgd_row(team, space, options, x, g, kMoment ? m : nullptr, n);
  }
};

template <class T>
struct Adam {
  static constexpr bool kMoment = true, kSecond = true;
  AdamOptions<T> options;
  template <class Team>
  __device__ __forceinline__ void run(const Team& team, const Space<T>& space, T* x, const T* g,
                                      T* m, T* q, int n) const {
    adam_row(team, space, options, x, g, m, q, n);
  }
};

template <class T, class Step, int kTeam>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    held_steps(const Tables<T> tables, const Space<T> space, const Step step) {
  constexpr int kTeams = kRowThreads / kTeam;
  const Holders<kTeam> team(tables.width, tables.quads);
  // A team without a row goes round with zeros: see held_rows.
  for (std::int64_t first = std::int64_t(blockIdx.x) * kTeams; first < tables.rows;
       first += std::int64_t(gridDim.x) * kTeams) {
    const std::int64_t row = first + threadIdx.x / kTeam, start = row * tables.width;
    const bool present = row < tables.rows;
    T x[1 + kHeld]{}, g[1 + kHeld]{}, m[1 + kHeld]{}, q = 0;
    if (present) {
      team.load(tables.x + start, x);
      team.load(tables.grad + start, g);
      if constexpr (Step::kMoment) team.load(tables.moment + start, m);
      if constexpr (Step::kSecond) q = tables.second[row];
    }
    step.run(team, space, x, g, m, &q, tables.width);
    if (present) {
      team.store(tables.x + start, x);
      if constexpr (Step::kMoment) team.store(tables.moment + start, m);
      if constexpr (Step::kSecond) {
        if (team.leads()) tables.second[row] = q;
      }
    }
  }
}

// The rows of a step that a block sweeps over.
template <class T, class Step>
struct SweptStep {
  T *to_x, *to_m;
  const T* from_g;
  T x[1 + kHeld], g[1 + kHeld], m[1 + kHeld];

  __device__ SweptStep(const Tables<T>& tables, std::int64_t row)
      : to_x(tables.x + row * tables.width),
        to_m(Step::kMoment ? tables.moment + row * tables.width : nullptr),
        from_g(tables.grad + row * tables.width) {
    g[0] = from_g[0];
  }
  __device__ __forceinline__ void load(const Place& place) {
    place.load(to_x, x + 1);
    place.load(from_g, g + 1);
    if constexpr (Step::kMoment) place.load(to_m, m + 1);
  }
  // x goes back unchanged where a sweep writes m alone: that costs no traffic beyond the cache.
  __device__ __forceinline__ void store(const Place& place) const {
    place.store(to_x, x + 1);
    if constexpr (Step::kMoment) place.store(to_m, m + 1);
  }
  __device__ __forceinline__ void store_time() const {
    to_x[0] = x[0];
    if constexpr (Step::kMoment) to_m[0] = m[0];
  }
};

template <class T, class Step>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    swept_steps(const Tables<T> tables, const Space<T> space, const Step step) {
  for (std::int64_t row = blockIdx.x; row < tables.rows; row += gridDim.x) {
    SweptStep<T, Step> swept(tables, row);
    const Sweepers<SweptStep<T, Step>> team{swept, tables.width, tables.quads};
    T q = 0;
    if constexpr (Step::kSecond) q = tables.second[row];
    step.run(team, space, swept.x, swept.g, swept.m, &q, tables.width);
    if (team.leads()) {
      swept.store_time();
      if constexpr (Step::kSecond) tables.second[row] = q;
    }
  }
}

template <class T, class Step>
void launch(const char* name, const Stream& stream, Tables<T> tables, const Space<T>& space,
            const Step& step) {
  if (tables.rows == 0) return;
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  tables.quads = takes_quads(tables.x, tables.width) && takes_quads(tables.grad, tables.width) &&
                 (!Step::kMoment || takes_quads(tables.moment, tables.width));
  const bool held =
      with_holders(tables.width, [&]<int kTeam>(std::integral_constant<int, kTeam>) {
        HDRM_LAUNCH_AS(name, (held_steps<T, Step, kTeam>),
                       blocks_for(tables.rows, kRowThreads / kTeam), kRowThreads, 0, handle, tables,
                       space, step);
      });
  if (held) return;
  HDRM_LAUNCH_AS(name, (swept_steps<T, Step>), blocks_for(tables.rows, 1), kRowThreads, 0, handle,
                 tables, space, step);
}

}  // namespace
}  // namespace hdrm::cuda

namespace hdrm {

template <class T>
void sgd_step(const cuda::Stream& on, const Space<T>& space, const SgdOptions<T>& options, T* x,
              const T* grad, T* moment, std::int64_t rows, int width) {
  const cuda::Tables<T> tables{x, grad, moment, nullptr, rows, width, false};
  if (moment) {
    cuda::launch("sgd_step", on, tables, space, cuda::Sgd<T, true>{options});
  } else {
    cuda::launch("sgd_step", on, tables, space, cuda::Sgd<T, false>{options});
  }
}

template <class T>
void adam_step(const cuda::Stream& on, const Space<T>& space, const AdamOptions<T>& options, T* x,
               const T* grad, T* moment, T* second, std::int64_t rows, int width) {
  const cuda::Tables<T> tables{x, grad, moment, second, rows, width, false};
  cuda::launch("adam_step", on, tables, space, cuda::Adam<T>{options});
}

#define HDRM_DEFINE(T)                                                                           \
  template void sgd_step(const cuda::Stream&, const Space<T>&, const SgdOptions<T>&, T*,         \
                         const T*, T*, std::int64_t, int);                                       \
  template void adam_step(const cuda::Stream&, const Space<T>&, const AdamOptions<T>&, T*,       \
                          const T*, T*, T*, std::int64_t, int);
HDRM_DEFINE(float)
HDRM_DEFINE(double)

}  // namespace hdrm
