// How many floating-point operations a second one core does, at most: multiply-adds between registers.

#include <cstdint>

namespace {

constexpr int CHAINS = 16;  // more than the latency of one times those begun in a cycle

template <typename T>
T multiply_add(int64_t times) {
    typedef T Vector __attribute__((vector_size(64)));
    Vector sum[CHAINS], factor = Vector{} + (T)0.999, term = Vector{} + (T)0.001;
    for (int i = 0; i < CHAINS; ++i) sum[i] = Vector{} + (T)i;
    for (int64_t k = 0; k < times; ++k)
        for (int i = 0; i < CHAINS; ++i) sum[i] = sum[i] * factor + term;
    T total = 0;
    for (int i = 0; i < CHAINS; ++i)
        for (unsigned lane = 0; lane < 64 / sizeof(T); ++lane) total += sum[i][lane];
    return total;
}

}  // namespace

// Operations in one turn of the loop: CHAINS vectors, a multiplication and an addition each.
extern "C" float peak_float32(int64_t times) { return multiply_add<float>(times); }
extern "C" double peak_float64(int64_t times) { return multiply_add<double>(times); }
extern "C" int64_t operations_float32() { return CHAINS * 16 * 2; }
extern "C" int64_t operations_float64() { return CHAINS * 8 * 2; }
