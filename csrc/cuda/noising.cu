// The diffusion's forward step and the statistics it needs. A thread's four columns take the four
// normal numbers of one Philox index.
#include "ops/noising.h"

#include "cuda/column_sums.cuh"

namespace hdrm::cuda {
namespace {

// The four normal numbers of a place in the row of this number.
template <class T>
__device__ __forceinline__ void noise_at(Words key, std::int64_t number, const Place& place, T* e) {
  float drawn[kHeld];
  normals(key, Words(number * quads(place.width) + place.first / kHeld), drawn);
#pragma unroll
  for (int j = 0; j < kHeld; ++j) e[j] = drawn[j];
}

// Elementwise -------------------------------------------------------------------------------------

// An op of this kind says what it keeps of its columns, and makes four elements of a row.

template <class S, bool kDirectional>
struct AddNoise {
  using T = Arithmetic<S>;
  Noising<S> in;
  struct Columns {
    Words key;
    T mean[kHeld], std[kHeld];
  };
  __device__ __forceinline__ Columns columns(const Place& place) const {
    Columns columns{Words(*in.seed), {}, {}};
    if constexpr (kDirectional) {
      place.load(in.mean, columns.mean);
      place.load(in.std, columns.std);
    }
    return columns;
  }
  __device__ __forceinline__ void make(const Columns& columns, const Place& place,
                                       std::int64_t row, T* out) const {
    T z[kHeld], e[kHeld];
    place.load(in.z0 + row * in.width, z);
    noise_at(columns.key, in.first_row + row, place, e);
    const Level<T> level = level_of<T>(in.schedule, row);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      out[j] = kDirectional ? directional(z[j], e[j], columns.mean[j], columns.std[j], level)
                            : isotropic(z[j], e[j], level);
    }
  }
};

template <class S>
struct ScaleBySignal {
  using T = Arithmetic<S>;
  const S* g;
  Schedule schedule;
  int width;
  struct Columns {};
  __device__ __forceinline__ Columns columns(const Place&) const { return {}; }
  __device__ __forceinline__ void make(Columns, const Place& place, std::int64_t row,
                                       T* out) const {
    place.load(g + row * width, out);
    const T a = level_of<T>(schedule, row).signal;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) out[j] *= a;
  }
};

// base + slope·((z − pivot) − shift): the gradient of the columns' mean and deviation.
template <class S>
struct SpreadOverRows {
  using T = Arithmetic<S>;
  const S* z0;  // row 0 is the pivot
  const T *base, *slope, *shift;
  int width;
  struct Columns {
    T pivot[kHeld], base[kHeld], slope[kHeld], shift[kHeld];
  };
  __device__ __forceinline__ Columns columns(const Place& place) const {
    Columns columns;
    place.load(z0, columns.pivot);
    place.load(base, columns.base);
    place.load(slope, columns.slope);
    place.load(shift, columns.shift);
    return columns;
  }
  __device__ __forceinline__ void make(const Columns& columns, const Place& place,
                                       std::int64_t row, T* out) const {
    T z[kHeld];
    place.load(z0 + row * width, z);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const T apart = (z[j] - columns.pivot[j]) - columns.shift[j];
      out[j] = columns.base[j] + columns.slope[j] * apart;
    }
  }
};

template <class S, class Op>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks)
    make_elements(const TableLayout layout, const Op op, S* out) {
  each_stripe(layout, [&](const Place& place) {
    const auto columns = op.columns(place);
    for (std::int64_t row = std::int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
         row < layout.rows; row += std::int64_t(gridDim.x) * blockDim.y) {
      Arithmetic<S> made[kHeld];
      op.make(columns, place, row, made);
      if (place.first == 0) made[0] = 0;
      place.store(out + row * layout.width, made);
    }
  });
}

template <class S, class Op>
void launch_elements(const char* name, const Stream& stream, const TableLayout& layout,
                     const Op& op, S* out) {
  if (layout.rows == 0) return;
  const dim3 block = layout.block(), grid(blocks_for(layout.rows, block.y), layout.stripes());
  HDRM_LAUNCH_AS(name, (make_elements<S, Op>), grid, block, 0,
                 static_cast<cudaStream_t>(stream.handle), layout, op, out);
}

// Sums over rows ----------------------------------------------------------------------------------

// Of every column, b·g and b·g·sgn(z0)|ε|; a·g goes out on the way.
template <class S>
struct NoiseGradient {
  using T = Arithmetic<S>;
  Noising<S> in;
  const S* g;
  S* gz0;

  struct State {
    Words key;
    T first[kHeld]{}, second[kHeld]{};
  };
  __device__ __forceinline__ State start(const Place&) const { return {Words(*in.seed)}; }
  __device__ __forceinline__ void add(State& state, const Place& place, std::int64_t row,
                                      std::int64_t) const {
    T z[kHeld], of_out[kHeld], e[kHeld], gz[kHeld];
    place.load(in.z0 + row * in.width, z);
    place.load(g + row * in.width, of_out);
    noise_at(state.key, in.first_row + row, place, e);
    const Level<T> level = level_of<T>(in.schedule, row);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const T of_noise = level.noise * of_out[j];
      state.first[j] += of_noise;
      state.second[j] += of_noise * directed(z[j], e[j]);
      gz[j] = level.signal * of_out[j];
    }
    if (place.first == 0) gz[0] = 0;
    place.store(gz0 + row * in.width, gz);
  }
  template <class At>
  static __device__ __forceinline__ void merge(std::int64_t, At at, T& first, T& second) {
    double of_mean = 0, of_std = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) {
      of_mean += at(0, y);
      of_std += at(1, y);
    }
    first = static_cast<T>(of_mean);
    second = static_cast<T>(of_std);
  }
};

// Mean and squared deviations of every column (Welford), of values less those of row 0: a column
// far from 0 keeps its digits, and one without spread has exactly none.
template <class S>
struct Moments {
  using T = Arithmetic<S>;
  const S* z0;
  int width;

  struct State {
    T pivot[kHeld], first[kHeld]{}, second[kHeld]{};
  };
  __device__ __forceinline__ State start(const Place& place) const {
    State state;
    place.load(z0, state.pivot);
    return state;
  }
  __device__ __forceinline__ void add(State& state, const Place& place, std::int64_t row,
                                      std::int64_t before) const {
    T z[kHeld];
    place.load(z0 + row * width, z);
    const T share = T(1) / static_cast<T>(before + 1);
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      const T value = z[j] - state.pivot[j], step = value - state.first[j];
      state.first[j] += share * step;
      state.second[j] += step * (value - state.first[j]);
    }
  }
  // Chan, Golub, LeVeque.
  template <class At>
  static __device__ __forceinline__ void merge(std::int64_t rows, At at, T& first, T& second) {
    const auto threads = static_cast<unsigned>(min(rows, std::int64_t(blockDim.y)));
    const auto count = [&](unsigned y) {  // thread y has had rows y, y + blockDim.y, …
      return static_cast<double>((rows - y + blockDim.y - 1) / blockDim.y);
    };
    double mean = 0, squares = 0;
    for (unsigned y = 0; y < threads; ++y) mean += count(y) * at(0, y);
    mean /= static_cast<double>(rows);
    for (unsigned y = 0; y < threads; ++y) {
      const double apart = at(0, y) - mean;
      squares += at(1, y) + count(y) * apart * apart;
    }
    first = static_cast<T>(mean);
    second = static_cast<T>(squares);
  }
};

// gmean, gstd ← the sums of NoiseGradient over groups.
template <class T>
__global__ void __launch_bounds__(kColumns * kMergers, kTableBlocks)
    add_groups(const TableLayout layout, const T* found, T* gmean, T* gstd) {
  each_column(layout, [&](int k, bool writes) {
    const auto sum = [&](int which) {
      return sum_over_groups(layout, [&](std::int64_t group) {
        return static_cast<double>(found[(2 * group + which) * layout.width + k]);
      });
    };
    const double of_mean = sum(0), of_std = sum(1);
    if (!writes) return;
    gmean[k] = k == 0 ? T(0) : static_cast<T>(of_mean);
    gstd[k] = k == 0 ? T(0) : static_cast<T>(of_std);
  });
}

template <class S>
struct Statistics {
  using T = Arithmetic<S>;
  const T* found;           // of Moments
  const S* z0;              // row 0 is the pivot
  const T *gmean, *gstd;    // backward
  T *mean, *std;            // forward
  T *base, *slope, *shift;  // backward: see SpreadOverRows
};

// The moments of all rows, and from there the statistics or what their gradient needs.
template <class S, bool kBackward>
__global__ void __launch_bounds__(kColumns * kMergers, kTableBlocks)
    merge_groups(const TableLayout layout, const Statistics<S> s) {
  using T = Arithmetic<S>;
  const auto rows = static_cast<double>(layout.rows);
  each_column(layout, [&](int k, bool writes) {
    const auto count = [&](std::int64_t group) {
      return static_cast<double>(min(layout.per_group, layout.rows - group * layout.per_group));
    };
    const auto of_group = [&](std::int64_t group, int which) {
      return static_cast<double>(s.found[(2 * group + which) * layout.width + k]);
    };
    const double mean = sum_over_groups(layout, [&](std::int64_t group) {
      return count(group) * of_group(group, 0);
    }) / rows;
    const double squares = sum_over_groups(layout, [&](std::int64_t group) {
      const double apart = of_group(group, 0) - mean;
      return of_group(group, 1) + count(group) * apart * apart;
    });
    if (!writes) return;
    const double freedom = layout.rows > 1 ? rows - 1 : 1.0, std = std::sqrt(squares / freedom);
    if constexpr (kBackward) {
      s.base[k] = static_cast<T>(s.gmean[k] / rows);
      s.slope[k] = static_cast<T>(std > 0 ? s.gstd[k] / (freedom * std) : 0.0);
      s.shift[k] = static_cast<T>(mean);
    } else {
      s.mean[k] = k == 0 ? T(0) : static_cast<T>(static_cast<double>(s.z0[k]) + mean);
      s.std[k] = k == 0 ? T(0) : static_cast<T>(std);
    }
  });
}

template <class S, bool kBackward>
void launch_statistics(const char* name, const Stream& stream, const TableLayout& layout,
                       Statistics<S> s) {
  using T = Arithmetic<S>;
  T* const found = scratch<T>(stream, 2 * layout.groups * layout.width);
  launch_groups(name, stream, layout, Moments<S>{s.z0, layout.width}, found);
  s.found = found;
  HDRM_LAUNCH_AS(name, (merge_groups<S, kBackward>), blocks_for(layout.width, kColumns),
                 dim3(kColumns, kMergers), 0, static_cast<cudaStream_t>(stream.handle), layout, s);
}

}  // namespace
}  // namespace hdrm::cuda

namespace hdrm {

template <class S>
void add_noise(const cuda::Stream& on, const Noising<S>& in, S* out) {
  using namespace cuda;
  const int n = in.width;
  const bool directional = in.mean != nullptr;
  const bool quads = takes_quads(in.z0, n) && takes_quads(out, n) &&
                     (!directional || (takes_quads(in.mean, n) && takes_quads(in.std, n)));
  const TableLayout layout(in.rows, n, quads);
  if (directional) {
    launch_elements("directional_noise", on, layout, AddNoise<S, true>{in}, out);
  } else {
    launch_elements("isotropic_noise", on, layout, AddNoise<S, false>{in}, out);
  }
}

template <class S>
void directional_noise_backward(const cuda::Stream& on, const Noising<S>& in, const S* g, S* gz0,
                                Arithmetic<S>* gmean, Arithmetic<S>* gstd) {
  using namespace cuda;
  using T = Arithmetic<S>;
  const char* const name = "directional_noise_backward";
  const int n = in.width;
  const bool quads = takes_quads(in.z0, n) && takes_quads(g, n) && takes_quads(gz0, n);
  const TableLayout layout(in.rows, n, quads);
  T* const found = scratch<T>(on, 2 * layout.groups * n);
  launch_groups(name, on, layout, NoiseGradient<S>{in, g, gz0}, found);
  HDRM_LAUNCH_AS(name, add_groups<T>, blocks_for(n, kColumns), dim3(kColumns, kMergers), 0,
                 static_cast<cudaStream_t>(on.handle), layout, found, gmean, gstd);
}

template <class S>
void isotropic_noise_backward(const cuda::Stream& on, const Schedule& schedule, const S* g,
                              std::int64_t rows, int width, S* gz0) {
  using namespace cuda;
  const TableLayout layout(rows, width, takes_quads(g, width) && takes_quads(gz0, width));
  launch_elements("isotropic_noise_backward", on, layout, ScaleBySignal<S>{g, schedule, width}, gz0);
}

template <class S>
void column_statistics(const cuda::Stream& on, const S* z0, std::int64_t rows, int width,
                       Arithmetic<S>* mean, Arithmetic<S>* std) {
  using namespace cuda;
  Statistics<S> s{};
  s.z0 = z0;
  s.mean = mean;
  s.std = std;
  const TableLayout layout(rows, width, takes_quads(z0, width));
  launch_statistics<S, false>("column_statistics", on, layout, s);
}

// ∂mean/∂z = 1/B and ∂std/∂z = (z − mean)/((B − 1)·std), the latter 0 where there is no spread.
template <class S>
void column_statistics_backward(const cuda::Stream& on, const Arithmetic<S>* gmean,
                                const Arithmetic<S>* gstd, const S* z0, std::int64_t rows,
                                int width, S* gz0) {
  using namespace cuda;
  using T = Arithmetic<S>;
  const char* const name = "column_statistics_backward";
  Statistics<S> s{};
  s.z0 = z0;
  s.gmean = gmean;
  s.gstd = gstd;
  s.base = scratch<T>(on, width);
  s.slope = scratch<T>(on, width);
  s.shift = scratch<T>(on, width);
  const TableLayout layout(rows, width, takes_quads(z0, width) && takes_quads(gz0, width));
  launch_statistics<S, true>(name, on, layout, s);
  launch_elements(name, on, layout, SpreadOverRows<S>{z0, s.base, s.slope, s.shift, width}, gz0);
}

#define HDRM_DEFINE(S)                                                                            \
  template void add_noise(const cuda::Stream&, const Noising<S>&, S*);                            \
  template void directional_noise_backward(const cuda::Stream&, const Noising<S>&, const S*, S*,  \
                                           Arithmetic<S>*, Arithmetic<S>*);                       \
  template void isotropic_noise_backward(const cuda::Stream&, const Schedule&, const S*,          \
                                         std::int64_t, int, S*);                                  \
  template void column_statistics(const cuda::Stream&, const S*, std::int64_t, int,               \
                                  Arithmetic<S>*, Arithmetic<S>*);                                \
  template void column_statistics_backward(const cuda::Stream&, const Arithmetic<S>*,             \
                                           const Arithmetic<S>*, const S*, std::int64_t, int, S*);
HDRM_DEFINE(float)
HDRM_DEFINE(double)
HDRM_DEFINE(Bfloat16)
HDRM_DEFINE(Half)

}  // namespace hdrm
