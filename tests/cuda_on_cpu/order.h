// The order of blocks, warps and lanes that a launch is run in.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace cuda_on_cpu {

class Order {
 public:
  void choose() {
    const char* given = std::getenv("HDRM_CUDA_ORDER");
    const std::string order = given ? given : "forward";
    unsigned seed = 0;
    if (order == "forward" || order == "reverse") {
      kind_ = order == "forward" ? kForward : kReverse;
    } else if (std::sscanf(order.c_str(), "random %u", &seed) == 1) {
      kind_ = kRandom;
      random_.seed(seed);
    } else {
      throw std::runtime_error("HDRM_CUDA_ORDER: expected forward, reverse or random SEED, got " +
                               order);
    }
  }

  // The number of one of the bits that are set.
  unsigned pick(unsigned bits) {
    if (kind_ == kForward) return std::countr_zero(bits);
    if (kind_ == kReverse) return 31 - std::countl_zero(bits);
    for (unsigned skip = random_() % std::popcount(bits); skip > 0; --skip) bits &= bits - 1;
    return std::countr_zero(bits);
  }

  std::vector<std::uint64_t> blocks(std::uint64_t count) {
    std::vector<std::uint64_t> all(count);
    std::iota(all.begin(), all.end(), 0);
    if (kind_ == kReverse) std::reverse(all.begin(), all.end());
    if (kind_ == kRandom) std::shuffle(all.begin(), all.end(), random_);
    return all;
  }

 private:
  enum { kForward, kReverse, kRandom } kind_ = kForward;
  std::minstd_rand random_;
};

}  // namespace cuda_on_cpu
