// Message passing of csrc/cuda, run by the emulator, against that of csrc/cpu in double:
// `message_passing GRAPH` runs rows of every width class with every option, storages and alignments
// taking turns, narrow work tables among them. Prints a hash of the results, which must not depend on HDRM_CUDA_ORDER, and the
// differences that are too large.
#include "ops/message_passing.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "driver.h"

namespace {

using namespace hdrm;
using cuda_on_cpu::Buffer;

#if defined(__SANITIZE_THREAD__)  // slow: a width for each way to hold a row, some of the options
constexpr int kEvery = 7, kWidths[] = {33, 132, 516};
#else
constexpr int kEvery = 1, kWidths[] = {2, 8, 33, 64, 65, 128, 132, 516};
#endif

struct Graph {
  std::vector<std::int64_t> rowptr{0};
  std::vector<std::int32_t> col;

  // Rows of these lengths, to neighbours at random, some of them more than once.
  explicit Graph(const std::vector<int>& degrees) {
    std::minstd_rand random(7);
    for (const int degree : degrees) {
      for (int e = 0; e < degree; ++e) col.push_back(random() % degrees.size());
      std::sort(col.begin() + rowptr.back(), col.end());
      rowptr.push_back(col.size());
    }
  }
};

Graph graph_of(const std::string& name) {
  if (name == "mixed") {
    return Graph({3, 0, 255, 1, 256, 0, 257, 2, 900, 1, 5, 0, 40, 31, 33, 8, 7, 300, 0, 9, 511});
  }
  if (name == "light") return Graph({0, 3, 2, 1, 0, 5, 8, 17, 0, 0, 2});
  if (name == "heavy") return Graph({3, 600, 0, 2, 1});
  if (name == "dense") return Graph({600, 700, 0, 650});  // a mean degree beyond a segment
  if (name == "empty") return Graph({0, 0, 0, 0, 0});
  if (name == "one") return Graph({0});
  if (name == "itself") return Graph({3});
  if (name == "star") return Graph({20000, 1, 1, 1, 0});
  return Graph({});  // "none"
}

struct Options {
  bool transposed, lorentz, symmetric, mean;
  int num_layers, width;
};

// Relative errors of sums over `longest` terms of one sign.
template <class S>
double tolerance(double longest) {
  if (sizeof(S) == 2) return 1e-2;
  return sizeof(S) == 4 ? (10 + std::sqrt(longest)) * 1.2e-7 : 1e-12;
}

// Runs On's op with tables of S, and W between rounds; the result.
template <class W, class S, class On>
std::vector<S> propagate_on(const On& on, const Graph& graph, const Options& o,
                            const std::vector<S>& source, const std::vector<S>& points,
                            std::size_t offset) {
  using T = Arithmetic<S>;
  const auto num_nodes = static_cast<std::int64_t>(graph.rowptr.size()) - 1;
  const std::size_t size = num_nodes * o.width;
  Buffer<T> factor(num_nodes);
  Buffer<W> work0(size, offset), work1(size, offset);
  Buffer<S> in(source, offset), x(points, offset), out(size, offset);
  const Propagation<S, W> p{graph.rowptr.data(), graph.col.data(), num_nodes,
                            static_cast<std::int64_t>(graph.col.size()), o.width, o.num_layers,
                            o.lorentz, o.symmetric, o.mean, Space<T>(0.7, 0), factor.data(),
                            {work0.data(), work1.data()}};
  if (o.transposed) {
    propagate_backward(on, p, in.data(), x.data(), out.data());
  } else {
    propagate(on, p, in.data(), out.data());
  }
  return out.values();
}

template <class S, class W = Arithmetic<S>>
void run(const Graph& graph, const Options& o, std::size_t offset, cuda_on_cpu::Verdict& verdict) {
  // Of one sign, so that no sum cancels.
  std::minstd_rand random(o.width);
  const float deviation = 1 / std::sqrt(static_cast<float>(o.width));
  std::normal_distribution<float> normal(2 * deviation, deviation);
  const auto table = [&] {
    std::vector<S> values((graph.rowptr.size() - 1) * o.width);
    for (S& value : values) value = normal(random);
    return values;
  };
  const std::vector<S> source = table(), points = table();
  const cuda_on_cpu::Device device;
  std::int64_t longest = 0;
  for (std::size_t i = 1; i < graph.rowptr.size(); ++i) {
    longest = std::max(longest, graph.rowptr[i] - graph.rowptr[i - 1]);
  }
  const auto flag = [](bool set, const char* name) { return set ? std::string(name) : ""; };
  verdict.compare(std::to_string(o.num_layers) + " layers" + flag(o.transposed, ", transposed") +
                      flag(o.lorentz, ", lorentz") + flag(o.symmetric, ", symmetric") +
                      flag(o.mean, ", mean") + flag(offset != 0, ", unaligned") +
                      flag(sizeof(W) == 2, ", narrow"),
                  propagate_on<W>(device.stream, graph, o, source, points, offset),
                  propagate_on<double>(cuda_on_cpu::kSerial, graph, o,
                                       cuda_on_cpu::widened(source),
                                       cuda_on_cpu::widened(points), 0),
                  o.width,
                  sizeof(W) == 2 ? 1e-2 : tolerance<S>(static_cast<double>(longest)));
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  const Graph graph = graph_of(name);
  cuda_on_cpu::Verdict verdict;
  int turn = 0;
  for (const int width : kWidths) {
    if (name == "star" && width != 8 && width != 64) continue;
    for (int options = 0; options < 16; ++options, ++turn) {
      if (turn % kEvery != 0) continue;
      const Options o{(options & 1) != 0, (options & 2) != 0, (options & 4) != 0,
                      (options & 8) != 0, 1 + turn % 4, width};
      const std::size_t offset = turn % 3 == 0;
      switch (turn % 9) {
        case 0: run<double>(graph, o, offset, verdict); break;
        case 1: run<Bfloat16>(graph, o, offset, verdict); break;
        case 2: run<Half>(graph, o, offset, verdict); break;
        case 3: run<Bfloat16, Bfloat16>(graph, o, offset, verdict); break;
        case 4: run<Half, Bfloat16>(graph, o, offset, verdict); break;
        case 5:
        case 6: run<float, Bfloat16>(graph, o, offset, verdict); break;
        default: run<float>(graph, o, offset, verdict);
      }
    }
  }
  return verdict.print();
}
