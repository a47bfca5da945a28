// Row kernels of csrc/cuda, run by the emulator, against those of csrc/cpu: `row_ops NAME` runs the
// kernel of that name on rows of every width class, in every storage, aligned and not.
#include "cpu/row_kernels.h"

#include <map>

#include "cuda/row_kernels.h"
#include "driver.h"

namespace {

using namespace hdrm;
using namespace cuda_on_cpu;

#if defined(__SANITIZE_THREAD__)  // slow: a width for each kind of team
constexpr int kWidths[] = {33, 100, 201, 516};
#else
constexpr int kWidths[] = {2, 3, 8, 33, 64, 65, 100, 128, 129, 512, 513, 516, 1040};
#endif

struct Op {
  const cpu::RowKernel& cpu;
  const cuda::RowKernel& cuda;
  int number_in = -1, number_out = -1;  // the table that holds a number per row
};

const std::map<std::string, Op> kOps{
#define OP(name, ...) {#name, {cpu::name, cuda::name __VA_OPT__(, ) __VA_ARGS__}}
    OP(expmap0),
    OP(expmap0_backward),
    OP(logmap0),
    OP(logmap0_backward),
    OP(project),
    OP(project_backward),
    OP(project_tangent),
    OP(project_tangent_backward),
    OP(expmap),
    OP(expmap_backward),
    OP(logmap),
    OP(logmap_backward),
    OP(transport),
    OP(transport_backward),
    OP(egrad2rgrad),
    OP(egrad2rgrad_backward),
    OP(distance, -1, 0),
    OP(distance_backward, 0),
    OP(sqdist, -1, 0),
    OP(sqdist_backward, 0),
    OP(sqdist0, -1, 0),
    OP(sqdist0_backward, 0),
    OP(margin_ranking, -1, 0),
    OP(margin_ranking_backward, 0),
};

// How the tables of a case are stored; mixed: the first input is native, all else 16 bits.
enum class Layout { kNative, kUnaligned, kBfloat16, kHalf, kMixed };

// A table of an op on rows of T.
template <class T>
class Rows {
 public:
  Rows(std::int64_t rows, int width, Layout layout, bool first)
      : native_(sizeof(T) == 8 || layout <= Layout::kUnaligned ||
                (layout == Layout::kMixed && first)),
        count_(rows * width),
        bytes_(count_ * (native_ ? sizeof(T) : 2),
               layout == Layout::kUnaligned ? (native_ ? sizeof(T) : 2) : 0),
        table_{bytes_.data(), width,
               native_                       ? Storage::kNative
               : layout == Layout::kBfloat16 ? Storage::kBfloat16
                                             : Storage::kHalf} {}

  const Table& table() const { return table_; }

  void fill(std::minstd_rand& random) {
    const auto values = normal_table<float>(random, count_ / table_.stride, table_.stride);
    with_elements([&](auto* data) { std::copy(values.begin(), values.end(), data); });
  }
  std::vector<double> values() {
    std::vector<double> wide;
    with_elements([&](auto* data) {
      using S = std::remove_pointer_t<decltype(data)>;
      for (std::int64_t i = 0; i < count_; ++i) wide.push_back(static_cast<Arithmetic<S>>(data[i]));
    });
    return wide;
  }
  double tolerance() const {
    if (table_.storage == Storage::kBfloat16) return 1e-2;
    if (table_.storage == Storage::kHalf) return 2e-3;
    return kTolerance<T>;
  }
  void hash(Verdict& verdict) { verdict.hash(bytes_.data(), bytes_.size()); }

 private:
  template <class F>
  void with_elements(F f) {
    if (table_.storage == Storage::kNative) return f(static_cast<T*>(table_.data));
    if (table_.storage == Storage::kHalf) return f(static_cast<Half*>(table_.data));
    f(static_cast<Bfloat16*>(table_.data));
  }

  bool native_;
  std::int64_t count_;
  Buffer<char> bytes_;
  Table table_;
};

template <class T>
void compare(const std::string& name, int width, Layout layout, Verdict& verdict) {
  const Op& op = kOps.at(name);
  const std::int64_t rows = width > 128 ? 3 : 19;  // more than two blocks take at once
  RowArguments arguments{};
  arguments.width = width;
  std::vector<Rows<T>> in, expected, found;
  std::minstd_rand random(width);
  for (int k = 0; k < op.cuda.num_in; ++k) {
    in.emplace_back(rows, k == op.number_in ? 1 : width, layout, k == 0);
    in.back().fill(random);
    arguments.in[k] = in.back().table();
  }
  const Space<T> space(0.7, 0.5);
  const auto run = [&](std::vector<Rows<T>>& out, const auto& kernel) {
    for (int k = 0; k < op.cuda.num_out; ++k) {
      out.emplace_back(rows, k == op.number_out ? 1 : width, layout, false);
      arguments.out[k] = out.back().table();
    }
    kernel();
  };
  const auto of_type = [](const auto& kernel) {
    if constexpr (sizeof(T) == 8) {
      return kernel.f64;
    } else {
      return kernel.f32;
    }
  };
  const Device device;
  run(expected, [&] { of_type(op.cpu)(arguments, space, 0, rows); });
  run(found, [&] { of_type(op.cuda)(device.stream, arguments, space, rows); });
  const double lost = name == "margin_ranking" ? 10 : 1;  // a difference of squared distances
  const std::string what = name + ", layout " + std::to_string(static_cast<int>(layout));
  for (int k = 0; k < op.cuda.num_out; ++k) {
    found[k].hash(verdict);
    verdict.compare_values(what + ", out " + std::to_string(k), found[k].values(),
                           expected[k].values(), found[k].table().stride,
                           lost * found[k].tolerance());
  }
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  Verdict verdict;
  for (const int width : kWidths) {
    for (const Layout layout : {Layout::kNative, Layout::kUnaligned, Layout::kBfloat16,
                                Layout::kHalf, Layout::kMixed}) {
#if defined(__SANITIZE_THREAD__)
      if (layout > Layout::kUnaligned) continue;
#else
      if (layout <= Layout::kUnaligned) compare<double>(name, width, layout, verdict);
#endif
      compare<float>(name, width, layout, verdict);
    }
  }
  return verdict.print();
}
