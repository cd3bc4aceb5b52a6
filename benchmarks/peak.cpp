// How many floating-point operations a second one core does at most: multiply-adds between registers.
//
// Kernels are held to this, so it shares nothing with them: it is written in the target's own
// instructions, and a fault of the kernels' vectors cannot lower it. Independent chains fill the
// units: more than the latency of one multiply-add times those begun in a cycle, and few enough that
// all stay in registers. A chain of integer additions, one a cycle, tells the frequency beside it.

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#else
#error "peak.cpp has no multiply-add for this processor: add its vectors, as for the others"
#endif

namespace {

#if defined(__AVX512F__)
using Floats = __m512;
using Doubles = __m512d;
constexpr int CHAINS = 24;  // of 32 registers
Floats all(float x) { return _mm512_set1_ps(x); }
Doubles all(double x) { return _mm512_set1_pd(x); }
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__)
using Floats = __m256;
using Doubles = __m256d;
constexpr int CHAINS = 12;  // of 16 registers
Floats all(float x) { return _mm256_set1_ps(x); }
Doubles all(double x) { return _mm256_set1_pd(x); }
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__x86_64__)
using Floats = __m128;
using Doubles = __m128d;
constexpr int CHAINS = 12;  // of 16 registers
Floats all(float x) { return _mm_set1_ps(x); }
Doubles all(double x) { return _mm_set1_pd(x); }
Floats multiply_add(Floats a, Floats b, Floats c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm_add_pd(_mm_mul_pd(a, b), c); }
#else
using Floats = float32x4_t;
using Doubles = float64x2_t;
constexpr int CHAINS = 24;  // of 32 registers
Floats all(float x) { return vdupq_n_f32(x); }
Doubles all(double x) { return vdupq_n_f64(x); }
Floats multiply_add(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return vfmaq_f64(c, a, b); }
#endif

template <typename V, typename T>
T multiply_adds(int64_t turns) {
    const V factor = all((T)0.999), term = all((T)0.001);
    V sum[CHAINS];
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; ++i) sum[i] = all((T)i);
    for (int64_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; ++i) sum[i] = multiply_add(sum[i], factor, term);
    }
    T lanes[CHAINS * sizeof(V) / sizeof(T)], total = 0;
    std::memcpy(lanes, sum, sizeof sum);
    for (const T lane : lanes) total += lane;
    return total;
}

}  // namespace

// The sums, so that no compiler leaves them out. A turn is CHAINS multiply-adds.
extern "C" float multiply_adds_float32(int64_t turns) { return multiply_adds<Floats, float>(turns); }
extern "C" double multiply_adds_float64(int64_t turns) {
    return multiply_adds<Doubles, double>(turns);
}

extern "C" int64_t chains() { return CHAINS; }
extern "C" int64_t vector_bytes() { return sizeof(Floats); }

// A turn is 64 additions, each of which waits for the one before it: 64 cycles. `step` comes from
// outside, since some processors add constants for nothing.
extern "C" int64_t additions(int64_t turns, int64_t step) {
    int64_t sum = 0;
    for (int64_t turn = 0; turn < turns; ++turn) {
#pragma GCC unroll 64
        for (int i = 0; i < 64; ++i) {
            sum += step;
            asm volatile("" : "+r"(sum));
        }
    }
    return sum;
}
