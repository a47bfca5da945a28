// CUDA threads as fibers of one OS thread.
//
// A block runs at a time. A thread runs until it must wait: in a warp operation for the lanes that
// its mask names (not for the block: warps may go round a loop different numbers of times), in
// __syncthreads for the block. Whoever arrives last wakes the others, and so does a thread that
// leaves the kernel. Which of the threads that can run is taken next is the order under test.
//
// Under ThreadSanitizer each CUDA thread of each block is a TSan fiber, and switching orders
// nothing: only warp operations, barriers, and the launch's beginning and end do. What two threads
// do to one address without them between is a race, in one block or in two.
#include "engine.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"
#include "order.h"
#include "thread.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr std::size_t kMaxShared = 48 << 10;  // more needs an attribute that no kernel here sets

// Everything of the launch that runs.
struct Engine {
  const char* kernel;
  void (*body)(const void*);
  const void* context;
  std::vector<Thread> threads;
  Warp warps[kWarp];
  unsigned runnable_warps;
  unsigned alive, in_barrier;
  const Thread* first_in_barrier;
  Thread* current = nullptr;
  Fiber main;
  Fiber* left;
  std::exception_ptr error;
  Order order;
  Stacks stacks{kMaxThreads};
  // Shared memory: the dynamic area first, then one for each declaration that was reached.
  std::size_t shared_bytes;
  std::vector<std::pair<const void*, void*>> shared;
  Slot slots[kMaxThreads];
  std::size_t next_slot = 0;
  void* host = nullptr;  // the TSan fiber that makes what is older than all that the threads do
  char launched, allocated;

  Warp& warp_of(const Thread& t) { return warps[t.number / kWarp]; }
  static unsigned bit_of(const Thread& t) { return 1u << (t.number % kWarp); }
  Thread& neighbour(const Thread& t, int lane) { return threads[t.number / kWarp * kWarp + lane]; }

  [[noreturn]] void refuse(const Thread& t, const std::string& what, const Where& at) {
    throw std::runtime_error("kernel " + std::string(kernel) + ", block " + text(blockIdx) +
                             ", thread " + text(t.index) + ", " + text(at) + ": " + what);
  }

  void make_runnable(Thread& t) {
    t.state = State::kRunnable;
    warp_of(t).runnable |= bit_of(t);
    runnable_warps |= 1u << (t.number / kWarp);
  }

  // Runs whoever comes next; returns when it is this fiber's turn again.
  void leave(Fiber& from, bool for_good = false) {
    Fiber* to = &main;
    Thread* next = nullptr;
    if (runnable_warps != 0 && !error) {
      const unsigned w = order.pick(runnable_warps);
      const unsigned l = order.pick(warps[w].runnable);
      if ((warps[w].runnable &= ~(1u << l)) == 0) runnable_warps &= ~(1u << w);
      next = &threads[w * kWarp + l];
      to = &next->fiber;
      threadIdx = next->index;
    }
    current = next;
    if (to != &from) switch_fiber(from, *to, left, for_good);
  }

  void wait() {
    Thread& t = *current;
    leave(t.fiber);
    CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&t.slot->woken);)
  }

  // What the lanes or threads of a group did before they met comes before what they do after. One
  // of them says so: who is running may be a thread that leaves, and is none.
  void synchronise(const std::vector<Thread*>& group) {
    CUDA_ON_CPU_IF_TSAN(as_tsan_fiber(group[0]->fiber.tsan, [&] {
      for (Thread* t : group) __tsan_acquire(&t->slot->arrived);
      for (Thread* t : group) __tsan_release(&t->slot->woken);
    });)
    for (Thread* t : group) make_runnable(*t);
  }

  // Completes the operation that lane t waits in, if every lane that it needs is there.
  void try_to_meet(const Thread& t) {
    Warp& warp = warp_of(t);
    const unsigned lanes = t.mask & warp.alive;
    std::vector<Thread*>& group = group_;
    group.clear();
    bool complete = (lanes & ~warp.waiting) == 0;
    for (unsigned rest = lanes & warp.waiting; rest != 0; rest &= rest - 1) {
      Thread& other = neighbour(t, std::countr_zero(rest));
      if (other.mask != t.mask) {
        if (other.mask & bit_of(t)) {
          refuse(t, std::string(t.operation) + " with mask " + hex(t.mask) + " while lane " +
                 std::to_string(other.number % kWarp) + " waits in " + other.operation + " (" +
                 text(other.at) + ") with mask " + hex(other.mask), t.at);
        }
        complete = false;  // it has others to meet first
      } else if (std::strcmp(other.operation, t.operation) != 0 ||
                 other.at.line() != t.at.line()) {
        refuse(t, "different intrinsics under mask " + hex(t.mask) + ": " + t.operation +
               " here, lane " + std::to_string(other.number % kWarp) + " in " + other.operation +
               " (" + text(other.at) + ")", t.at);
      }
      group.push_back(&other);
    }
    if (!complete) return;
    unsigned ballot = 0;
    for (Thread* lane : group) {
      if (lane->value != 0) ballot |= bit_of(*lane);
    }
    for (Thread* lane : group) {
      if (lane->source == kBallot) {
        lane->result = ballot;
        continue;
      }
      if (!(lanes >> lane->source & 1)) {
        const bool left = t.mask >> lane->source & 1;
        refuse(*lane, std::string(lane->operation) + " reads lane " + std::to_string(lane->source) +
               (left ? ", which has left the kernel" : ", which mask " + hex(t.mask) +
                " does not name"), lane->at);
      }
      lane->result = neighbour(t, lane->source).value;
    }
    warp.waiting &= ~lanes;
    synchronise(group);
  }

  void try_to_open_barrier() {
    if (in_barrier == 0 || in_barrier < alive) return;
    group_.clear();
    for (Thread& t : threads) {
      if (t.state == State::kInBlock) group_.push_back(&t);
    }
    in_barrier = 0;
    synchronise(group_);
  }

  // The running thread has left the kernel: nobody waits for it any more.
  void depart(Thread& t) {
    Warp& warp = warp_of(t);
    t.state = State::kLeft;
    warp.alive &= ~bit_of(t);
    --alive;
    CUDA_ON_CPU_IF_TSAN(__tsan_release(&t.slot->arrived);)
    for (unsigned lanes = warp.waiting; lanes != 0; lanes &= lanes - 1) {
      const Thread& other = neighbour(t, std::countr_zero(lanes));
      if ((warp.waiting & bit_of(other)) && (other.mask & bit_of(t))) try_to_meet(other);
    }
    try_to_open_barrier();
  }

  void* allocate(std::size_t bytes) {
    void* area = nullptr;
    as_tsan_fiber(host, [&] {
      area = std::malloc(bytes);
      if (area) std::memset(area, 0xff, bytes);  // NaN as float and as double
      CUDA_ON_CPU_IF_TSAN(__tsan_release(&allocated);)
    });
    if (!area) throw std::bad_alloc();
    return area;
  }

  void run_block();
  void deadlock();

  Engine() {
    group_.reserve(kMaxThreads);
    shared.reserve(64);
  }

 private:
  std::vector<Thread*> group_;  // of those who meet; here, so that fibers need no memory
};

// Never destroyed, as its stacks may be in use when the process exits.
Engine& engine = *new Engine;

Thread& running(const Where& at) {
  if (!engine.current) throw std::runtime_error(text(at) + ": called outside a kernel");
  return *engine.current;
}

void fiber_entry() {
  arrive_in_fiber(engine.left);
  Thread& t = *engine.current;
  CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&engine.launched);)
  try {
    engine.body(engine.context);
    engine.depart(t);
  } catch (...) {
    engine.error = std::current_exception();
    CUDA_ON_CPU_IF_TSAN(__tsan_release(&t.slot->arrived);)
  }
  engine.leave(t.fiber, true);
  std::abort();  // nobody comes back here
}

void Engine::deadlock() {
  std::string waiting;
  const Thread* first = nullptr;
  int shown = 0;
  for (const Thread& t : threads) {
    if (t.state == State::kLeft) continue;
    if (!first) first = &t;
    if (++shown > 4) continue;
    waiting += "; thread " + text(t.index) + " waits in " + t.operation + " (" + text(t.at) + ")";
    if (t.state == State::kInWarp) waiting += " with mask " + hex(t.mask);
  }
  if (shown > 4) waiting += "; and " + std::to_string(shown - 4) + " more";
  refuse(*first, "deadlock: no thread can run" + waiting, first->at);
}

void Engine::run_block() {
  const auto count = static_cast<unsigned>(threads.size());
  std::fill(std::begin(warps), std::end(warps), Warp{});
  runnable_warps = 0;
  alive = count;
  in_barrier = 0;
  for (unsigned k = 0; k < count; ++k) {
    Thread& t = threads[k];
    t.number = k;
    t.index = {k % blockDim.x, k / blockDim.x % blockDim.y, k / blockDim.x / blockDim.y};
    std::size_t slot = k;
    CUDA_ON_CPU_IF_TSAN(slot = next_slot++ % kMaxThreads;)
    t.slot = &slots[slot];
    stacks.place(t.fiber, slot);
    t.fiber.start(fiber_entry, k % kWarp * 320);
    CUDA_ON_CPU_IF_TSAN(
        if (!t.slot->tsan_fiber) as_tsan_fiber(host, [&] {  // a new one inherits its maker's past
          t.slot->tsan_fiber = __tsan_create_fiber(0);
        });
        t.fiber.tsan = t.slot->tsan_fiber;)
    warp_of(t).alive |= bit_of(t);
    make_runnable(t);
  }
  shared.emplace_back(nullptr, allocate(shared_bytes));

  leave(main);

  for (Thread& t : threads) {
    CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&t.slot->arrived);)
    (void)t;
  }
  CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&allocated);)
  for (auto& [declaration, area] : shared) std::free(area);
  shared.clear();
  if (error) std::rethrow_exception(std::exchange(error, nullptr));
  if (alive != 0) deadlock();
}

}  // namespace

void run(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
         void (*thread)(const void*), const void* context) {
  Engine& e = engine;
  const std::uint64_t blocks = std::uint64_t(grid.x) * grid.y * grid.z;
  const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error("kernel " + std::string(kernel) + ": " + what);
  };
  if (e.current) refuse("launched from a kernel");
  if (threads == 0 || threads > kMaxThreads || block.z > 64) {
    refuse("blocks of " + std::to_string(threads) + " threads; expected 1 to 1024");
  }
  if (blocks == 0 || grid.x >= 1u << 31 || grid.y > 65535 || grid.z > 65535) {
    refuse("a grid of " + text(uint3{grid.x, grid.y, grid.z}) + " blocks");
  }
  if (shared_bytes > kMaxShared) {
    refuse(std::to_string(shared_bytes) + " bytes of shared memory; expected at most 48 KiB");
  }
  e.kernel = kernel;
  e.body = thread;
  e.context = context;
  e.shared_bytes = shared_bytes;
  e.next_slot = 0;
  e.order.choose();
  e.threads.assign(threads, Thread{});
  gridDim = grid;
  blockDim = block;
  CUDA_ON_CPU_IF_TSAN(e.main.tsan = __tsan_get_current_fiber();
                      if (!e.host) e.host = __tsan_create_fiber(0);
                      __tsan_release(&e.launched);
                      as_tsan_fiber(e.host, [&] { __tsan_acquire(&e.launched); });)
  for (const std::uint64_t b : e.order.blocks(blocks)) {
    blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y),
                unsigned(b / grid.x / grid.y)};
    e.run_block();
  }
}

std::uint64_t meet(const char* operation, unsigned mask, std::uint64_t value, int source,
                   Where at) {
  Thread& t = running(at);
  if (!(mask & Engine::bit_of(t))) {
    engine.refuse(t, std::string(operation) + ": mask " + hex(mask) + " lacks the caller's bit",
                  at);
  }
  t.state = State::kInWarp;
  t.operation = operation;
  t.mask = mask;
  t.value = value;
  t.source = source;
  t.at = at;
  engine.warp_of(t).waiting |= Engine::bit_of(t);
  CUDA_ON_CPU_IF_TSAN(__tsan_release(&t.slot->arrived);)
  engine.try_to_meet(t);
  engine.wait();
  return t.result;
}

int lane() { return running(Where::current()).number % kWarp; }

void barrier(Where at) {
  Thread& t = running(at);
  if (engine.in_barrier == 0) engine.first_in_barrier = &t;
  const Thread& first = *engine.first_in_barrier;
  if (engine.in_barrier > 0 && first.at.line() != at.line()) {
    engine.refuse(t, "__syncthreads while thread " + text(first.index) + " waits in another (" +
                  text(first.at) + ")", at);
  }
  t.state = State::kInBlock;
  t.operation = "__syncthreads";
  t.at = at;
  ++engine.in_barrier;
  CUDA_ON_CPU_IF_TSAN(__tsan_release(&t.slot->arrived);)
  engine.try_to_open_barrier();
  engine.wait();
}

void* dynamic_shared() {
  CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&engine.allocated);)
  return engine.shared.front().second;
}

void* static_shared(const void* declaration, std::size_t bytes) {
  auto& shared = engine.shared;
  auto found = std::find_if(shared.begin(), shared.end(),
                            [&](const auto& area) { return area.first == declaration; });
  if (found == shared.end()) {
    shared.emplace_back(declaration, engine.allocate(bytes));
    found = shared.end() - 1;
  }
  CUDA_ON_CPU_IF_TSAN(__tsan_acquire(&engine.allocated);)
  return found->second;
}

}  // namespace cuda_on_cpu
