// What the drivers of kernels share: names of the functions of KERNEL, reading and writing.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "replay.h"

#define JOIN(A, B) A##_##B
#define EXPANDED(A, B) JOIN(A, B)
#define NAMED(NAME) EXPANDED(KERNEL, NAME)
#define FUNCTIONS(STRUCT, NAME)                                   \
    extern "C" int NAMED(NAME##_float32)(const STRUCT*);          \
    extern "C" int NAMED(NAME##_float64)(const STRUCT*);

template <class U>
std::vector<U> read(int64_t count) {
    std::vector<U> values(count);
    if (std::fread(values.data(), sizeof(U), count, stdin) != (size_t)count) std::exit(2);
    return values;
}

template <class U>
void write(const std::vector<U>& values) {
    std::fwrite(values.data(), sizeof(U), values.size(), stdout);
}
