// Fibers: stacks that one OS thread switches between, and what the sanitizers must hear about it.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <system_error>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CUDA_ON_CPU_ASAN(...) __VA_ARGS__
#else
#define CUDA_ON_CPU_ASAN(...)
#endif

// With ThreadSanitizer the engine itself is compiled without -fsanitize=thread, as its bookkeeping
// is no memory access of the kernel's, and with this macro defined instead.
#if defined(CUDA_ON_CPU_TSAN)
#include <sanitizer/tsan_interface.h>
#define CUDA_ON_CPU_IF_TSAN(...) __VA_ARGS__
#else
#define CUDA_ON_CPU_IF_TSAN(...)
#endif

namespace cuda_on_cpu {

#if !defined(__x86_64__)
#error "the fiber switch is written for x86-64; other processors need theirs here"
#endif

// Pushes what a call preserves, exchanges the stack pointers, pops: *save = rsp, rsp = load.
extern "C" void cuda_on_cpu_switch(void** save, void* load);
asm(R"(
.text
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");

struct Fiber {
  void* stack_pointer = nullptr;
  char* bottom = nullptr;  // of its stack; unknown for the OS thread's until it is left
  std::size_t size = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;        // TSan's name for it

  // The next switch to this fiber calls entry(), which must not return.
  void start(void (*entry)(), std::size_t colour) {
    // The ABI wants rsp = 16k + 8 on entry. The colour keeps stacks out of each other's cache sets.
    auto* top = reinterpret_cast<void**>(bottom + size - 256 - colour);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    stack_pointer = top;
  }
};

// Leaves `from` for `to`; returns when somebody switches back. `left` becomes the fiber that was
// left last, in whoever runs then.
inline void switch_fiber(Fiber& from, Fiber& to, Fiber*& left, bool for_good) {
  left = &from;
  CUDA_ON_CPU_ASAN(
      __sanitizer_start_switch_fiber(for_good ? nullptr : &from.fake_stack, to.bottom, to.size);)
  CUDA_ON_CPU_IF_TSAN(__tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
  CUDA_ON_CPU_ASAN({
    const void* bottom;
    __sanitizer_finish_switch_fiber(from.fake_stack, &bottom, &left->size);
    left->bottom = static_cast<char*>(const_cast<void*>(bottom));
  })
  (void)for_good;
}

// The first thing that a fiber does.
inline void arrive_in_fiber(Fiber* left) {
  CUDA_ON_CPU_ASAN({
    const void* bottom;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &left->size);
    left->bottom = static_cast<char*>(const_cast<void*>(bottom));
  })
  (void)left;
}

// Calls f in the name of a TSan fiber.
template <class F>
void as_tsan_fiber([[maybe_unused]] void* fiber, F f) {
  CUDA_ON_CPU_IF_TSAN(void* const self = __tsan_get_current_fiber();
                      __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);)
  f();
  CUDA_ON_CPU_IF_TSAN(__tsan_switch_to_fiber(self, __tsan_switch_to_fiber_no_sync);)
}

// Memory for many stacks, each above a page that nobody may touch; never given back, since a
// process may exit from one of them.
class Stacks {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr std::size_t kSize = 256 << 10;  // AddressSanitizer makes large frames
#else
  static constexpr std::size_t kSize = 64 << 10;
#endif
  static constexpr std::size_t kGuard = 4096;

  explicit Stacks(std::size_t count) {
    void* const found = mmap(nullptr, count * kSize, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "stacks");
    base_ = static_cast<char*>(found);
    for (std::size_t k = 0; k < count; ++k) mprotect(base_ + k * kSize, kGuard, PROT_NONE);
  }
  Stacks(const Stacks&) = delete;

  void place(Fiber& fiber, std::size_t k) {
    fiber.bottom = base_ + k * kSize + kGuard;
    fiber.size = kSize - kGuard;
    CUDA_ON_CPU_ASAN(__asan_unpoison_memory_region(fiber.bottom, fiber.size);)
  }

 private:
  char* base_;
};

}  // namespace cuda_on_cpu
