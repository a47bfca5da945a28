#include "cpu/normals.h"

#include "cpu/clones.h"
#include "cpu/team.h"

namespace hdrm::cpu {
namespace {

#if HDRM_HAS_CLONES

// out ← the products of the lower halves of 64-bit lanes. Every level of x86-64 has an instruction
// for it that GCC does not find; what it finds for rows/philox.h takes twice the time.
template <class Lanes>
HDRM_FN void multiply(const Lanes& a, const Lanes& b, Lanes& out) {
  if constexpr (sizeof(Lanes) == 16) {
    out = a;
    asm("pmuludq %1, %0" : "+x"(out) : "x"(b));
  } else {
    asm("vpmuludq %2, %1, %0" : "=v"(out) : "v"(a), "v"(b));
  }
}

// The words of rows/philox.h's philox for as many indices as 32-bit lanes, from `first` on: word w
// goes to words[w·kLanes …]. A lane works on one index, and its upper half is dropped at the end.
template <class Lanes>
HDRM_FN void draw(Words key, std::uint64_t first, std::uint32_t* words) {
  std::uint64_t steps[sizeof(Lanes) / 8];
  for (std::uint64_t i = 0; i < sizeof(Lanes) / 8; ++i) steps[i] = 2 * i;
  Lanes even;
  __builtin_memcpy(&even, steps, sizeof(Lanes));
  even += first;
  const Lanes odd = even + 1, zero = {}, a = zero + kPhiloxA, b = zero + kPhiloxB;
  Lanes draws[2][4] = {{even, even >> 32, zero, zero}, {odd, odd >> 32, zero, zero}};
#pragma GCC unroll 10
  for (std::uint32_t round = 0; round < 10; ++round) {
    const std::uint64_t low = key.low + round * kPhiloxKeyA, high = key.high + round * kPhiloxKeyB;
    for (auto& x : draws) {
      Lanes of_a, of_b;
      multiply(x[0], a, of_a);
      multiply(x[2], b, of_b);
      x[0] = (of_b >> 32) ^ x[1] ^ low;
      x[1] = of_b;
      x[2] = (of_a >> 32) ^ x[3] ^ high;
      x[3] = of_a;
    }
  }
  for (int word = 0; word < 4; ++word) {
    const Lanes both = (draws[0][word] & 0xffffffff) | draws[1][word] << 32;
    __builtin_memcpy(words + word * kLanes, &both, sizeof(Lanes));
  }
}

template <class Lanes>
HDRM_FN void make_blocks(Words key, Words first, std::int64_t count, float* e) {
  const std::uint64_t index = first.low | static_cast<std::uint64_t>(first.high) << 32;
  for (std::int64_t i = 0; i < count; i += kLanes) {
    alignas(64) std::uint32_t words[4 * kLanes];
    for (int j = 0; j < kLanes; j += sizeof(Lanes) / 4) draw<Lanes>(key, index + i + j, words + j);
    float* out = e + 4 * i;
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) {
      hdrm::normals({words[j], words[j + kLanes], words[j + 2 * kLanes], words[j + 3 * kLanes]},
                    out + 4 * j);
    }
  }
}

#define HDRM_MAKE(level, bytes)                                              \
  level void make(Words key, Words first, std::int64_t count, float* e) {     \
    make_blocks<Simd<std::uint64_t, bytes / 8>::Vector>(key, first, count, e); \
  }
HDRM_LEVELS(HDRM_MAKE)

#else

void make(Words key, Words first, std::int64_t count, float* e) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const Words index = first + static_cast<std::uint32_t>(i);
#pragma omp simd
    for (int j = 0; j < kLanes; ++j) hdrm::normals(key, index + j, e + 4 * (i + j));
  }
}

#endif

}  // namespace

void normals(Words key, Words first, std::int64_t count, float* e) { make(key, first, count, e); }

}  // namespace hdrm::cpu
