// Vectors of the processor's own width, and scratch space.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "target.h"

#define INLINE __attribute__((always_inline))

namespace {

template <int N, class F>
INLINE inline void unroll(F&& body) {
    [&]<int... I>(std::integer_sequence<int, I...>) INLINE {
        (body(std::integral_constant<int, I>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

template <typename T>
struct VectorOf;
template <>
struct VectorOf<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef int32_t index __attribute__((vector_size(BYTES)));
};
template <>
struct VectorOf<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef int64_t index __attribute__((vector_size(BYTES)));
};

template <typename T>
using Vector = typename VectorOf<T>::type;
template <typename T>
using Index = typename VectorOf<T>::index;
template <typename T>
constexpr int LANES = BYTES / sizeof(T);

// Where registers are few: what was loaded before is loaded again when it is needed again. The compiler
// would keep it in a register, and a sum in memory instead.
INLINE inline void forget_loads() {
    if constexpr (REGISTERS < 32) asm volatile("" ::: "memory");
}

// Keeps the compiler from reading v from memory at each of its uses.
template <class V>
INLINE inline void keep(V& v) {
#if defined(__x86_64__)
    if constexpr (REGISTERS < 32) asm("" : "+x"(v));
#endif
}

template <typename T>
Vector<T> load(const T* from) {
    Vector<T> out;
    std::memcpy(&out, from, sizeof out);
    return out;
}

// The first `count` lanes from memory, zeros in the others.
template <typename T>
Vector<T> load(const T* from, int count) {
    Vector<T> out{};
    std::memcpy(&out, from, count * sizeof(T));
    return out;
}

template <typename T>
void store(T* to, const Vector<T>& v) {
    std::memcpy(to, &v, sizeof v);
}

template <typename T>
void store(T* to, const Vector<T>& v, int count) {
    std::memcpy(to, &v, count * sizeof(T));
}

// Lane i is number(i): constant where `number` is, which a loop over lanes is not.
template <typename T, class F>
INLINE inline Index<T> numbered(F&& number) {
    return [&]<int... I>(std::integer_sequence<int, I...>) INLINE {
        return Index<T>{number(I)...};
    }(std::make_integer_sequence<int, LANES<T>>{});
}

template <typename T>
constexpr int HALVINGS = __builtin_ctz(LANES<T>);  // from a vector to a number

// Lane i of the result is the sum over the lanes of v[i]; v is used up.
template <typename T>
INLINE inline Vector<T> sums(Vector<T> (&v)[LANES<T>]) {
    const Index<T> even = numbered<T>([&](int i) { return 2 * i; });
    const Index<T> odd = numbered<T>([&](int i) { return 2 * i + 1; });
    unroll<HALVINGS<T>>([&](auto step) INLINE {
        unroll<(LANES<T> >> step) / 2>([&](auto i) INLINE {
            v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) +
                   __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
        });
    });
    return v[0];
}

// The sum over the lanes of v.
template <typename T>
INLINE inline T sum(Vector<T> v) {
    unroll<HALVINGS<T>>([&](auto step) INLINE {
        constexpr int apart = LANES<T> >> (step + 1);
        v += __builtin_shuffle(v, numbered<T>([&](int i) { return i ^ apart; }));
    });
    return v[0];
}

// Lane j of v[i] becomes lane i of v[j].
template <typename T>
INLINE inline void transpose(Vector<T> (&v)[LANES<T>]) {
    constexpr int L = LANES<T>;
    unroll<HALVINGS<T>>([&](auto step) INLINE {
        constexpr int n = 1 << step;
        // Lanes of two vectors side by side.
        const Index<T> first = numbered<T>([&](int i) { return i & n ? L + i - n : i; });
        const Index<T> second = numbered<T>([&](int i) { return i & n ? L + i : i + n; });
        unroll<L / 2>([&](auto pair) INLINE {
            constexpr int i = pair / n * 2 * n + pair % n;
            const Vector<T> a = v[i], b = v[i + n];
            v[i] = __builtin_shuffle(a, b, first);
            v[i + n] = __builtin_shuffle(a, b, second);
        });
    });
}

constexpr int64_t round_up(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Room for `count` numbers on a line of the cache, kept from call to call: fresh pages would cost as
// much as they are used. Null where there is no memory. Rooms of another number are others.
template <typename T, int NUMBER = 0>
T* scratch(int64_t count) {
    struct Free {
        void operator()(T* room) const { operator delete[](room, std::align_val_t{LINE}); }
    };
    thread_local std::unique_ptr<T, Free> room;
    thread_local int64_t size = 0;
    if (count > size) {
        size = 0;
        void* fresh = operator new[](count * sizeof(T), std::align_val_t{LINE}, std::nothrow);
        room.reset(static_cast<T*>(fresh));
        if (room) size = count;
    }
    return room.get();
}

// One `Scratch` a thread, kept from call to call; null where there is no memory.
template <class Scratch>
Scratch* kept_scratch() {
    thread_local std::unique_ptr<Scratch> one;
    if (!one) one.reset(new (std::nothrow) Scratch);
    return one.get();
}

}  // namespace
