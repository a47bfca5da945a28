// One binary for every CPU: a function marked HDRM_CLONES, and all that it inlines, is compiled for
// each of these levels, and the dynamic linker picks the best that the machine has. GCC before 12
// has no dispatcher for them, clang drops them silently, and a sanitizer is not up yet when the
// linker asks.
#pragma once

//
// HDRM_LEVELS(define, …) expands define(level, bytes, …) for each of the levels: for functions that
// name vectors, of as many bytes as the level has. A wider vector GCC keeps in memory, where a sum
// takes ten times as long; `level` goes before the function.
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HDRM_HAS_CLONES 1
#define HDRM_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define HDRM_LEVELS(define, ...)                                            \
  define(__attribute__((target("arch=x86-64-v4"))), 64 __VA_OPT__(, ) __VA_ARGS__) \
  define(__attribute__((target("arch=x86-64-v3"))), 32 __VA_OPT__(, ) __VA_ARGS__) \
  define(__attribute__((target("default"))), 16 __VA_OPT__(, ) __VA_ARGS__)
#else
#define HDRM_HAS_CLONES 0
#define HDRM_CLONES
#define HDRM_LEVELS(define, ...) define(, 16 __VA_OPT__(, ) __VA_ARGS__)
#endif
