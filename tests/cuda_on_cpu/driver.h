// What the programs beside this file share that run kernels of csrc/cuda in the emulator and
// compare them with csrc/cpu.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cpu/parallel.h"
#include "cuda/stream.h"
#include "rows/storage.h"

namespace cuda_on_cpu {

// Memory of exactly this size, so that AddressSanitizer sees what lies beyond; NaN at first. With
// an offset, in elements, it is not aligned for vectors.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::size_t count, std::size_t offset = 0)
      : count_(count), offset_(offset), bytes_(new char[(count + offset) * sizeof(T)]) {
    std::memset(bytes_.get(), 0xff, (count + offset) * sizeof(T));
  }
  Buffer(const std::vector<T>& values, std::size_t offset) : Buffer(values.size(), offset) {
    std::copy(values.begin(), values.end(), data());
  }
  T* data() { return reinterpret_cast<T*>(bytes_.get()) + offset_; }
  std::size_t size() const { return count_; }
  std::vector<T> values() { return {data(), data() + count_}; }

 private:
  std::size_t count_, offset_;
  std::unique_ptr<char[]> bytes_;
};

// The host's ops run in this thread.
inline const hdrm::cpu::Parallel kSerial{
    [](std::int64_t count, std::int64_t, const auto& body) {
      if (count > 0) body(0, count);
    },
    1};

// A stream, and the scratch memory of what runs in it.
class Device {
 public:
  Device() : stream{nullptr, [this](std::int64_t bytes) -> void* {
                      return scratch_.emplace_back(new char[bytes]).get();
                    }} {}
  Device(const Device&) = delete;
  const hdrm::cuda::Stream stream;

 private:
  std::vector<std::unique_ptr<char[]>> scratch_;
};

// Normal numbers of deviation 1/√width.
template <class S>
std::vector<S> normal_table(std::minstd_rand& random, std::int64_t rows, int width) {
  std::normal_distribution<float> normal(0, 1 / std::sqrt(static_cast<float>(width)));
  std::vector<S> values(rows * width);
  for (S& value : values) value = normal(random);
  return values;
}

template <class S>
std::vector<double> widened(const std::vector<S>& values) {
  std::vector<double> wide;
  for (const S& value : values) wide.push_back(static_cast<hdrm::Arithmetic<S>>(value));
  return wide;
}

template <class S>
constexpr double kTolerance = sizeof(S) == 2 ? 1e-2 : sizeof(S) == 4 ? 2e-6 : 1e-12;

// What a program has found: the hash of all results, which must not depend on HDRM_CUDA_ORDER, and
// whether all were close to the host's.
class Verdict {
 public:
  template <class S>
  void compare(const std::string& what, const std::vector<S>& found,
               const std::vector<double>& expected, std::size_t width,
               double tolerance = kTolerance<S>) {
    hash(found.data(), found.size() * sizeof(S));
    compare_values(what + ", " + std::to_string(sizeof(S)) + " bytes", widened(found), expected,
                   width, tolerance);
  }

  void hash(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3;
  }

  // Rows of `width` elements, each compared relative to the row's largest; a row of small elements,
  // where larger ones may have cancelled, to a tenth of the table's.
  void compare_values(const std::string& what, const std::vector<double>& found,
                      const std::vector<double>& expected, std::size_t width, double tolerance) {
    const auto largest = [&](std::size_t begin, std::size_t end) {
      double size = 0;
      for (std::size_t i = begin; i < end; ++i) size = std::max(size, std::abs(expected[i]));
      return size;
    };
    const double least = largest(0, expected.size()) / 10;
    for (std::size_t row = 0; row < found.size(); row += width) {
      const double scale = std::max(least, largest(row, row + width));
      for (std::size_t i = 0; i < width; ++i) {
        if (std::abs(found[row + i] - expected[row + i]) <= tolerance * scale) continue;
        std::printf("%s, width %zu, row %zu, element %zu: %.9g, expected %.9g\n", what.c_str(),
                    width, row / width, i, found[row + i], expected[row + i]);
        right_ = false;
        return;
      }
    }
  }

  // For main to return.
  int print() const {
    std::printf("%016llx %s\n", static_cast<unsigned long long>(hash_), right_ ? "right" : "WRONG");
    return right_ ? 0 : 1;
  }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325;
  bool right_ = true;
};

}  // namespace cuda_on_cpu
