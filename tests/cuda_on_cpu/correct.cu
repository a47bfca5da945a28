// Kernels that are right: `correct NAME` runs one of them, compares with the host's answer, and
// prints the result's bits, which must not depend on HDRM_CUDA_ORDER.
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/device.h"

namespace {

constexpr unsigned kAll = 0xffffffff;

// Memory of exactly this size, so that AddressSanitizer sees what lies beyond.
template <class T>
struct Buffer {
  explicit Buffer(std::vector<T> values) : size(values.size()), data(new T[values.size()]) {
    std::copy(values.begin(), values.end(), data.get());
  }
  operator T*() const { return data.get(); }
  std::size_t size;
  std::unique_ptr<T[]> data;
};

std::vector<float> values(int size) {
  std::vector<float> result(size);
  for (int i = 0; i < size; ++i) result[i] = std::sin(i + 1.0f);
  return result;
}

// 0 if `found` is close to `expected`; prints the bits.
int compare(const Buffer<float>& found, const std::vector<double>& expected) {
  bool right = found.size == expected.size();
  for (std::size_t i = 0; i < found.size; ++i) {
    std::printf("%08x ", std::bit_cast<unsigned>(found[i]));
    right = right && std::abs(found[i] - expected[i]) < 1e-5 * (1 + std::abs(expected[i]));
  }
  std::puts(right ? "right" : "WRONG");
  return right ? 0 : 1;
}

__device__ float warp_sum(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

// A block a row, dynamic shared memory, a stride over rows and one within them.
__global__ void block_sums(const float* x, float* out, int rows, int width) {
  HDRM_SHARED(float, part);
  for (int row = blockIdx.x; row < rows; row += gridDim.x) {
    float total = 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) total += x[row * width + i];
    part[threadIdx.x] = total;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
      if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) out[row] = part[0];
    __syncthreads();
  }
}

int block_reduction() {
  const int rows = 7, width = 150;
  const Buffer x(values(rows * width)), out(std::vector<float>(rows, 0));
  HDRM_LAUNCH(block_sums, 3, 64, 64 * sizeof(float), nullptr, x, out, rows, width);
  std::vector<double> expected;
  for (int r = 0; r < rows; ++r) {
    expected.push_back(std::accumulate(x + r * width, x + (r + 1) * width, 0.0));
  }
  return compare(out, expected);
}

// A warp a row of a CSR: warps of a block go round their loops different numbers of times.
__global__ void csr_sums(const long long* rowptr, const float* x, float* out, int rows) {
  const int lane = threadIdx.x & 31, warps = gridDim.x * (blockDim.x / 32);
  for (int row = (blockIdx.x * blockDim.x + threadIdx.x) / 32; row < rows; row += warps) {
    float total = 0;
    for (long long first = rowptr[row]; first < rowptr[row + 1]; first += 32) {
      const long long i = first + lane;
      total += warp_sum(i < rowptr[row + 1] ? x[i] : 0);
    }
    if (lane == 0) out[row] = total;
  }
}

int warps_of_different_length() {
  const std::vector<int> lengths{0, 1, 300, 32, 0, 33, 1000, 5, 64, 0, 31};
  std::vector<long long> ends{0};
  for (int length : lengths) ends.push_back(ends.back() + length);
  const int rows = lengths.size();
  const Buffer rowptr(ends);
  const Buffer x(values(ends.back())), out(std::vector<float>(rows, 0));
  HDRM_LAUNCH(csr_sums, 2, 128, 0, nullptr, rowptr, x, out, rows);
  std::vector<double> expected;
  for (int r = 0; r < rows; ++r) {
    expected.push_back(std::accumulate(x + ends[r], x + ends[r + 1], 0.0));
  }
  return compare(out, expected);
}

// Groups of 8 lanes, each with a loop of its own length.
__global__ void group_sums(float* out) {
  const int lane = threadIdx.x & 31, group = lane / 8;
  const unsigned mask = 0xffu << (8 * group);
  float total = 0;
  for (int round = 0; round <= group; ++round) {
    float value = lane + round;
    for (int step = 4; step > 0; step /= 2) value += __shfl_xor_sync(mask, value, step, 8);
    total += value;
    __syncwarp(mask);
  }
  out[threadIdx.x] = __any_sync(mask, total > 0) ? total : -1;
}

int masks_within_a_warp() {
  const Buffer out(std::vector<float>(32, 0));
  HDRM_LAUNCH(group_sums, 1, 32, 0, nullptr, out);
  std::vector<double> expected;
  for (int lane = 0; lane < 32; ++lane) {
    double total = 0;
    for (int round = 0; round <= lane / 8; ++round) total += 8 * (lane / 8 * 8 + round) + 28;
    expected.push_back(total);
  }
  return compare(out, expected);
}

// Threads that leave count as having arrived, in their warp and in their block; so do lanes of the
// last warp that never were.
__global__ void leaving(float* out, int stay) {
  HDRM_SHARED_ARRAY(float, part, [2][64]);
  if (static_cast<int>(threadIdx.x) >= stay) return;
  part[1][threadIdx.x] = threadIdx.x;
  __syncthreads();
  const unsigned here = __ballot_sync(kAll, 1);
  out[threadIdx.x] = part[1][stay - 1 - threadIdx.x] + 100.0f * __popc(here);
}

int early_exit() {
  const int stay = 41;
  const Buffer out(std::vector<float>(stay, 0));
  HDRM_LAUNCH(leaving, 1, 50, 0, nullptr, out, stay);
  std::vector<double> expected;
  for (int i = 0; i < stay; ++i) expected.push_back(stay - 1 - i + 100 * (i < 32 ? 32 : stay - 32));
  return compare(out, expected);
}

// Every intrinsic, with CUDA's answers where the source lies outside its segment.
__global__ void every_intrinsic(float* out) {
  const int lane = threadIdx.x & 31;
  float* mine = out + 9 * lane;
  mine[0] = __shfl_sync(kAll, static_cast<double>(lane), 35);
  mine[1] = __shfl_sync(kAll, lane, 3, 8);
  mine[2] = __shfl_up_sync(kAll, static_cast<long long>(lane), 5);
  mine[3] = __shfl_down_sync(kAll, static_cast<unsigned>(lane), 5, 16);
  mine[4] = __shfl_xor_sync(kAll, static_cast<float>(lane), 9, 8);
  mine[5] = __ffs(__ballot_sync(kAll, lane >= 7));
  mine[6] = __any_sync(kAll, lane == 40) + 2 * __any_sync(kAll, lane == 4);
  mine[7] = __all_sync(kAll, lane < 31) + 2 * __all_sync(kAll, lane < 32);
  HDRM_SHARED_ARRAY(int, highest, [1]);
  if (lane == 0) highest[0] = 0;
  __syncwarp();
  atomicAdd(highest, 2);
  __syncwarp();
  atomicMax(highest, 50 + lane);
  __syncwarp();
  mine[8] = highest[0];
}

int intrinsics() {
  const Buffer out(std::vector<float>(9 * 32, 0));
  HDRM_LAUNCH(every_intrinsic, 1, 32, 0, nullptr, out);
  std::vector<double> expected;
  for (int lane = 0; lane < 32; ++lane) {
    const double row[]{3.0,
                       lane / 8 * 8 + 3.0,
                       lane < 5 ? lane : lane - 5.0,
                       lane % 16 > 10 ? lane : lane + 5.0,
                       (lane ^ 9) / 8 > lane / 8 ? lane : double(lane ^ 9),
                       8.0,
                       2.0,
                       2.0,
                       81.0};
    expected.insert(expected.end(), std::begin(row), std::end(row));
  }
  return compare(out, expected);
}

// A grid and blocks of three dimensions.
__global__ void numbering(float* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = 1000 * block + thread;
}

int dimensions() {
  const Buffer out(std::vector<float>(2 * 3 * 2 * 24, 0));
  HDRM_LAUNCH(numbering, dim3(2, 3, 2), dim3(4, 3, 2), 0, nullptr, out);
  std::vector<double> expected;
  for (int i = 0; i < 2 * 3 * 2 * 24; ++i) expected.push_back(1000 * (i / 24) + i % 24);
  return compare(out, expected);
}

// For the speed: 2²⁰ elements in rows of 64.
int million() {
  const int rows = 1 << 14, width = 64;
  std::vector<long long> ends(rows + 1);
  for (int r = 0; r <= rows; ++r) ends[r] = static_cast<long long>(r) * width;
  const Buffer rowptr(ends);
  const Buffer x(std::vector<float>(rows * width, 0.5f)), out(std::vector<float>(rows, 0));
  HDRM_LAUNCH(csr_sums, rows / 8, 256, 0, nullptr, rowptr, x, out, rows);
  return compare(out, std::vector<double>(rows, width / 2));
}

}  // namespace

int main(int, char** arguments) {
  const std::map<std::string, std::function<int()>> cases{
      {"block_reduction", block_reduction},
      {"warps_of_different_length", warps_of_different_length},
      {"masks_within_a_warp", masks_within_a_warp},
      {"early_exit", early_exit},
      {"intrinsics", intrinsics},
      {"dimensions", dimensions},
      {"million", million},
  };
  return cases.at(arguments[1])();
}
