// The row kernels of csrc/cuda, run by the emulator, against those of csrc/cpu: `row_ops NAME` runs
// an op over rows of every width class, in every storage, aligned and not. Prints a hash of the
// results, which must not depend on HDRM_CUDA_ORDER, and the first difference that is too large.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/row_kernels.h"
#include "cuda/row_kernels.h"

namespace {

using namespace hdrm;

#if defined(__SANITIZE_THREAD__)  // slow: one width for each kind of team, two blocks
constexpr int kRows = 2, kWidths[] = {33, 100, 201, 513};
#else
constexpr int kRows = 5;
constexpr int kWidths[] = {2, 3, 8, 33, 64, 65, 100, 128, 129, 512, 513, 700};
#endif

struct Op {
  const cpu::RowKernel& cpu;
  const cuda::RowKernel& cuda;
};

const std::map<std::string, Op> kOps{
#define OP(name) {#name, {cpu::name, cuda::name}}
    OP(expmap0),         OP(expmap0_backward),
    OP(logmap0),         OP(logmap0_backward),
    OP(project),         OP(project_backward),
    OP(project_tangent), OP(project_tangent_backward),
    OP(expmap),          OP(expmap_backward),
    OP(logmap),          OP(logmap_backward),
    OP(transport),       OP(transport_backward),
    OP(egrad2rgrad),     OP(egrad2rgrad_backward),
};

// How the tables of a case are stored; mixed: the first input is native, all else 16 bits.
enum class Layout { kNative, kUnaligned, kBfloat16, kHalf, kMixed };

// A table of exactly its size, so that AddressSanitizer sees what lies beyond.
class Rows {
 public:
  Rows(std::int64_t count, int width, std::size_t size, std::size_t offset)
      : bytes_(count * width * size), offset_(offset), data_(new char[bytes_ + offset]) {
    std::memset(data_.get(), 0xff, bytes_ + offset);  // NaN
  }
  char* data() const { return data_.get() + offset_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_, offset_;
  std::unique_ptr<char[]> data_;
};

template <class T>
double value(const char* data, Storage storage, std::int64_t i) {
  if (storage == Storage::kNative) return reinterpret_cast<const T*>(data)[i];
  const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(data)[i];
  return storage == Storage::kHalf ? widen_half(bits) : widen_bfloat16(bits);
}

template <class T>
void put(char* data, Storage storage, std::int64_t i, double x) {
  if (storage == Storage::kNative) reinterpret_cast<T*>(data)[i] = static_cast<T>(x);
  auto* bits = reinterpret_cast<std::uint16_t*>(data) + i;
  if (storage == Storage::kHalf) *bits = to_half(static_cast<float>(x));
  if (storage == Storage::kBfloat16) *bits = to_bfloat16(static_cast<float>(x));
}

double tolerance(Storage storage, bool is_double) {
  if (storage == Storage::kBfloat16) return 1e-2;
  if (storage == Storage::kHalf) return 2e-3;
  return is_double ? 1e-12 : 2e-6;
}

class Case {
 public:
  Case(const std::string& name, std::int64_t rows, int width, Layout layout)
      : name_(name), op_(kOps.at(name)), rows_(rows), width_(width), layout_(layout) {}

  // Runs both kernels; false if they differ. The results go into the hash.
  template <class T>
  bool run(std::uint64_t& hash) {
    RowArguments arguments{};
    arguments.width = width_;
    std::vector<Rows> in, expected, found;
    std::minstd_rand random(width_);
    std::normal_distribution<double> normal(0, 1 / std::sqrt(width_));
    for (int k = 0; k < op_.cuda.num_in; ++k) {
      arguments.in[k] = table<T>(in, k == 0);
      for (std::int64_t i = 0; i < rows_ * width_; ++i) {
        put<T>(in.back().data(), arguments.in[k].storage, i, normal(random));
      }
    }
    for (int k = 0; k < op_.cpu.num_out; ++k) arguments.out[k] = table<T>(expected, false);
    const Space<T> space(0.7, 0);
    if constexpr (sizeof(T) == 8) {
      op_.cpu.f64(arguments, space, 0, rows_);
    } else {
      op_.cpu.f32(arguments, space, 0, rows_);
    }
    for (int k = 0; k < op_.cuda.num_out; ++k) arguments.out[k] = table<T>(found, false);
    if constexpr (sizeof(T) == 8) {
      op_.cuda.f64(arguments, space, rows_, nullptr);
    } else {
      op_.cuda.f32(arguments, space, rows_, nullptr);
    }
    bool right = true;
    for (std::size_t k = 0; k < found.size(); ++k) {
      for (std::size_t i = 0; i < found[k].bytes(); ++i) {
        hash = (hash ^ static_cast<unsigned char>(found[k].data()[i])) * 0x100000001b3;
      }
      right = right && close<T>(found[k], expected[k], arguments.out[k].storage, k);
    }
    return right;
  }

 private:
  template <class T>
  Table table(std::vector<Rows>& all, bool first) {
    const bool native = sizeof(T) == 8 || layout_ == Layout::kNative ||
                        layout_ == Layout::kUnaligned || (layout_ == Layout::kMixed && first);
    const Storage storage = native                        ? Storage::kNative
                            : layout_ == Layout::kBfloat16 ? Storage::kBfloat16
                                                           : Storage::kHalf;
    const std::size_t size = native ? sizeof(T) : 2;
    all.emplace_back(rows_, width_, size, layout_ == Layout::kUnaligned ? size : 0);
    return {all.back().data(), width_, storage};
  }

  // Differences relative to the row's largest element.
  template <class T>
  bool close(const Rows& found, const Rows& expected, Storage storage, std::size_t k) {
    for (std::int64_t row = 0; row < rows_; ++row) {
      const auto at = [&](const Rows& r, int i) {
        return value<T>(r.data(), storage, row * width_ + i);
      };
      double largest = 0;
      for (int i = 0; i < width_; ++i) largest = std::max(largest, std::abs(at(expected, i)));
      for (int i = 0; i < width_; ++i) {
        const double x = at(found, i), y = at(expected, i);
        if (std::abs(x - y) <= tolerance(storage, sizeof(T) == 8) * largest) continue;
        std::printf("%s, width %d, layout %d, %zu bytes, out %zu, row %lld, element %d: "
                    "%.9g, expected %.9g\n", name_.c_str(), width_, static_cast<int>(layout_),
                    sizeof(T), k, static_cast<long long>(row), i, x, y);
        return false;
      }
    }
    return true;
  }

  std::string name_;
  const Op& op_;
  std::int64_t rows_;
  int width_;
  Layout layout_;
};

}  // namespace

// row_ops NAME [rows width]: all cases, or one of native float rows.
int main(int count, char** arguments) {
  std::uint64_t hash = 0xcbf29ce484222325;
  bool right = true;
  const std::string name = arguments[1];
  if (count > 2) {
    Case one(name, std::stoll(arguments[2]), std::stoi(arguments[3]), Layout::kNative);
    right = one.run<float>(hash);
  } else {
    for (const int width : kWidths) {
      for (const Layout layout : {Layout::kNative, Layout::kUnaligned, Layout::kBfloat16,
                                  Layout::kHalf, Layout::kMixed}) {
        Case next(name, kRows, width, layout);
        right = next.run<float>(hash) && right;
        if (layout <= Layout::kUnaligned) right = next.run<double>(hash) && right;
      }
    }
  }
  std::printf("%016llx %s\n", static_cast<unsigned long long>(hash), right ? "right" : "WRONG");
  return right ? 0 : 1;
}
