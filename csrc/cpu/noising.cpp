// Column sums are taken over blocks of kBlockRows rows, whatever the number of threads, and the
// blocks are added in order in double: the same bits always.
#include "ops/noising.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/clones.h"
#include "cpu/normals.h"
#include "cpu/team.h"

namespace hdrm {
namespace {

constexpr std::int64_t kBlockRows = 128;

std::int64_t num_blocks(std::int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }

std::int64_t grain_blocks(int width) {
  return cpu::grain_rows(kBlockRows * width);
}

// What the loops over rows or blocks below read and write.
template <class S>
struct Task {
  using T = Arithmetic<S>;
  Noising<S> in;
  const S* g;
  S* out;
  T* partial;  // (blocks, 2, width): the two column sums of each block
  const T *base, *slope, *shift;  // (width,) each, of column_statistics_backward
};

// Calls f(row, ε of the row) for rows begin … end−1. Indices run on from row to row, so the normal
// numbers of several short rows are made at once.
template <class S, class F>
HDRM_FN void with_noise(const Noising<S>& in, std::int64_t begin, std::int64_t end, F f) {
  using cpu::kLanes;
  const std::int64_t per_row = quads(in.width), group = std::max<std::int64_t>(1, 256 / per_row);
  const std::int64_t padded = (group * per_row + kLanes - 1) / kLanes * kLanes;
  std::vector<float> buffer(4 * padded);
  float* e = buffer.data();
  const Words key(*in.seed);
  for (std::int64_t first = begin; first < end; first += group) {
    const std::int64_t last = std::min(first + group, end), count = (last - first) * per_row;
    cpu::normals(key, Words((in.first_row + first) * per_row), count, e);
    for (std::int64_t row = first; row < last; ++row) f(row, e + 4 * per_row * (row - first));
  }
}

template <class S>
HDRM_FN void run_add(const Task<S>& task, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Noising<S>& in = task.in;
  const Serial team;
  with_noise(in, begin, end, [&](std::int64_t row, const float* e) {
    const S* z = in.z0 + row * in.width;
    S* out = task.out + row * in.width;
    const Level<T> level = level_of<T>(in.schedule, row);
    if (in.mean) {
      team.each(in.width, [&](int k) {
        out[k] = directional<T>(z[k], e[k], in.mean[k], in.std[k], level);
      });
    } else {
      team.each(in.width, [&](int k) { out[k] = isotropic<T>(z[k], e[k], level); });
    }
    out[0] = 0;
  });
}

template <class S>
HDRM_FN void run_signal(const Task<S>& task, std::int64_t begin, std::int64_t end) {
  const Serial team;
  const int n = task.in.width;
  for (std::int64_t row = begin; row < end; ++row) {
    const Arithmetic<S> a = level_of<Arithmetic<S>>(task.in.schedule, row).signal;
    team.each(n, [&](int k) { task.out[row * n + k] = a * task.g[row * n + k]; });
    task.out[row * n] = 0;
  }
}

// Over blocks: gz0, and the block's sums b·g and b·g·sgn(z0)|ε| of every column.
template <class S>
HDRM_FN void run_add_backward(const Task<S>& task, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Noising<S>& in = task.in;
  const Serial team;
  const int n = in.width;
  with_noise(in, begin * kBlockRows, std::min(end * kBlockRows, in.rows),
             [&](std::int64_t row, const float* e) {
    const S *z = in.z0 + row * n, *g = task.g + row * n;
    S* gz = task.out + row * n;
    T* gmean = task.partial + row / kBlockRows * 2 * n;
    T* gstd = gmean + n;
    const Level<T> level = level_of<T>(in.schedule, row);
    team.each(n, [&](int k) {
      const T of_noise = level.noise * g[k];
      gmean[k] += of_noise;
      gstd[k] += of_noise * directed<T>(z[k], e[k]);
      gz[k] = level.signal * g[k];
    });
    gz[0] = 0;
  });
}

// Over blocks: mean and sum of squared deviations of every column (Welford), of values less those
// of row 0. A column far from 0 thus keeps its digits, and one without spread has exactly none.
template <class S>
HDRM_FN void run_statistics(const Task<S>& task, std::int64_t begin, std::int64_t end) {
  using T = Arithmetic<S>;
  const Serial team;
  const int n = task.in.width;
  const S* pivot = task.in.z0;
  for (std::int64_t block = begin; block < end; ++block) {
    T* mean = task.partial + block * 2 * n;
    T* squares = mean + n;
    const std::int64_t first = block * kBlockRows;
    const std::int64_t last = std::min(first + kBlockRows, task.in.rows);
    for (std::int64_t row = first; row < last; ++row) {
      const S* z = task.in.z0 + row * n;
      const T share = T(1) / static_cast<T>(row - first + 1);
      team.each(n, [&](int k) {
        const T value = z[k] - pivot[k], step = value - mean[k];
        mean[k] += share * step;
        squares[k] += step * (value - mean[k]);
      });
    }
  }
}

template <class S>
HDRM_FN void run_statistics_backward(const Task<S>& task, std::int64_t begin, std::int64_t end) {
  const Serial team;
  const int n = task.in.width;
  const S* pivot = task.in.z0;
  for (std::int64_t row = begin; row < end; ++row) {
    const S* z = task.in.z0 + row * n;
    S* out = task.out + row * n;
    team.each(n, [&](int k) {
      out[k] = task.base[k] + task.slope[k] * ((z[k] - pivot[k]) - task.shift[k]);
    });
    out[0] = 0;
  }
}

// Functions of their own for each type, since clones are not made of templates.
#define HDRM_LOOP(name, S)                                                           \
  HDRM_CLONES void name(const Task<S>& task, std::int64_t begin, std::int64_t end) { \
    run_##name(task, begin, end);                                                    \
  }
#define HDRM_LOOPS(name)  \
  HDRM_LOOP(name, float)  \
  HDRM_LOOP(name, double) \
  HDRM_LOOP(name, Bfloat16) HDRM_LOOP(name, Half)
HDRM_LOOPS(add)
HDRM_LOOPS(signal)
HDRM_LOOPS(add_backward)
HDRM_LOOPS(statistics)
HDRM_LOOPS(statistics_backward)

// Mean and squared deviations of all rows, less row 0's values, merged block by block (Chan, Golub,
// LeVeque).
struct Moments {
  std::vector<double> mean, squares;

  template <class S>
  Moments(const cpu::Parallel& parallel, const S* z0, std::int64_t rows, int width)
      : mean(width), squares(width) {
    using T = Arithmetic<S>;
    std::vector<T> partial(num_blocks(rows) * 2 * width);
    Task<S> task{};
    task.in.z0 = z0;
    task.in.rows = rows;
    task.in.width = width;
    task.partial = partial.data();
    parallel.loop(num_blocks(rows), grain_blocks(width),
                  [&](std::int64_t begin, std::int64_t end) { statistics(task, begin, end); });
    for (std::int64_t block = 0; block < num_blocks(rows); ++block) {
      const T* block_mean = partial.data() + block * 2 * width;
      const T* block_squares = block_mean + width;
      const auto before = static_cast<double>(block * kBlockRows);
      const auto after = static_cast<double>(std::min((block + 1) * kBlockRows, rows));
      const double share = (after - before) / after;
      for (int k = 0; k < width; ++k) {
        const double step = block_mean[k] - mean[k];
        mean[k] += share * step;
        squares[k] += block_squares[k] + step * step * before * share;
      }
    }
  }

  double deviation(int k, std::int64_t rows) const {
    return std::sqrt(squares[k] / static_cast<double>(std::max<std::int64_t>(rows - 1, 1)));
  }
};

}  // namespace

template <class S>
void add_noise(const cpu::Parallel& parallel, const Noising<S>& in, S* out) {
  Task<S> task{};
  task.in = in;
  task.out = out;
  parallel.loop(in.rows, cpu::grain_rows(in.width),
                [&](std::int64_t begin, std::int64_t end) { add(task, begin, end); });
}

template <class S>
void directional_noise_backward(const cpu::Parallel& parallel, const Noising<S>& in, const S* g,
                                S* gz0, Arithmetic<S>* gmean, Arithmetic<S>* gstd) {
  const std::int64_t blocks = num_blocks(in.rows), n = in.width;
  std::vector<Arithmetic<S>> partial(blocks * 2 * n);
  Task<S> task{};
  task.in = in;
  task.g = g;
  task.out = gz0;
  task.partial = partial.data();
  parallel.loop(blocks, grain_blocks(in.width),
                [&](std::int64_t begin, std::int64_t end) { add_backward(task, begin, end); });
  std::vector<double> sum(2 * n);
  for (std::int64_t block = 0; block < blocks; ++block) {
    for (std::int64_t k = 0; k < 2 * n; ++k) sum[k] += partial[block * 2 * n + k];
  }
  std::copy_n(sum.begin(), n, gmean);
  std::copy_n(sum.begin() + n, n, gstd);
  gmean[0] = gstd[0] = 0;
}

template <class S>
void isotropic_noise_backward(const cpu::Parallel& parallel, const Schedule& schedule, const S* g,
                              std::int64_t rows, int width, S* gz0) {
  Task<S> task{};
  task.in.schedule = schedule;
  task.in.width = width;
  task.g = g;
  task.out = gz0;
  parallel.loop(rows, cpu::grain_rows(width),
                [&](std::int64_t begin, std::int64_t end) { signal(task, begin, end); });
}

template <class S>
void column_statistics(const cpu::Parallel& parallel, const S* z0, std::int64_t rows, int width,
                       Arithmetic<S>* mean, Arithmetic<S>* std) {
  using T = Arithmetic<S>;
  const Moments moments(parallel, z0, rows, width);
  for (int k = 1; k < width; ++k) {
    mean[k] = static_cast<T>(z0[k] + moments.mean[k]);
    std[k] = static_cast<T>(moments.deviation(k, rows));
  }
  mean[0] = std[0] = 0;
}

// ∂mean/∂z = 1/B and ∂std/∂z = (z − mean)/((B − 1)·std), the latter 0 where there is no spread.
template <class S>
void column_statistics_backward(const cpu::Parallel& parallel, const Arithmetic<S>* gmean,
                                const Arithmetic<S>* gstd, const S* z0, std::int64_t rows,
                                int width, S* gz0) {
  using T = Arithmetic<S>;
  const Moments moments(parallel, z0, rows, width);
  std::vector<T> base(width), slope(width), shift(width);
  for (int k = 0; k < width; ++k) {
    const double std = moments.deviation(k, rows);
    base[k] = static_cast<T>(gmean[k] / static_cast<double>(rows));
    slope[k] = static_cast<T>(std > 0 ? gstd[k] / (static_cast<double>(rows - 1) * std) : 0);
    shift[k] = static_cast<T>(moments.mean[k]);
  }
  Task<S> task{};
  task.in.z0 = z0;
  task.in.width = width;
  task.out = gz0;
  task.base = base.data();
  task.slope = slope.data();
  task.shift = shift.data();
  parallel.loop(rows, cpu::grain_rows(width), [&](std::int64_t begin, std::int64_t end) {
    statistics_backward(task, begin, end);
  });
}

#define HDRM_DEFINE(S)                                                                           \
  template void add_noise(const cpu::Parallel&, const Noising<S>&, S*);                          \
  template void directional_noise_backward(const cpu::Parallel&, const Noising<S>&, const S*,    \
                                           S*, Arithmetic<S>*, Arithmetic<S>*);                  \
  template void isotropic_noise_backward(const cpu::Parallel&, const Schedule&, const S*,        \
                                         std::int64_t, int, S*);                                 \
  template void column_statistics(const cpu::Parallel&, const S*, std::int64_t, int,             \
                                  Arithmetic<S>*, Arithmetic<S>*);                               \
  template void column_statistics_backward(const cpu::Parallel&, const Arithmetic<S>*,           \
                                           const Arithmetic<S>*, const S*, std::int64_t, int, S*);
HDRM_DEFINE(float)
HDRM_DEFINE(double)
HDRM_DEFINE(Bfloat16)
HDRM_DEFINE(Half)

}  // namespace hdrm
