// What the processor that is compiled for has: the width of its vectors and how many of them it holds.
//
// All blocking follows from these two. A vector wider than the processor's would not be split into
// registers: GCC keeps it in memory, and every multiply-add loads and stores (15 times slower).

#pragma once

namespace {

#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#define INSTRUCTION_SET "AVX-512"
#elif defined(__AVX2__)
constexpr int BYTES = 32, REGISTERS = 16;
#define INSTRUCTION_SET "AVX2"
#elif defined(__ARM_NEON)
constexpr int BYTES = 16, REGISTERS = 32;
#define INSTRUCTION_SET "NEON"
#elif defined(__SSE2__)
constexpr int BYTES = 16, REGISTERS = 16;
#define INSTRUCTION_SET "SSE2"
#else
constexpr int BYTES = 16, REGISTERS = 16;
#define INSTRUCTION_SET "none"
#endif

constexpr int LINE = 64;  // bytes, of the cache

}  // namespace

// For the caller: in every library of a kernel, once.
extern "C" inline __attribute__((used)) const char* instruction_set() { return INSTRUCTION_SET; }
