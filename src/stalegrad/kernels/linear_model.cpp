// Half the mean squared residual of a linear model, |X w - y|^2 / (2 B): loss and gradient
// X'(X w - y) / B of many runs at once, on a CPU.
//
// Eight runs are taken together, so that every number of X that is loaded serves eight of them: first
// all residuals, in tiles of two samples by eight runs, then the gradient, in tiles of eight runs by
// three vectors of columns. Both tiles keep their sums in registers. A minibatch of the size that
// matters stays in the second-level cache between the two passes. Both precisions come from one
// template.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

constexpr int BYTES = 64;  // of a vector; where registers are shorter the compiler splits it
constexpr int SAMPLES = 2, RUNS = 8, COLUMNS = 3;

template <typename T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(BYTES)));
    typedef int32_t index __attribute__((vector_size(BYTES)));
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(BYTES)));
    typedef int64_t index __attribute__((vector_size(BYTES)));
};

template <typename T>
struct LinearModel {
    using V = typename Vector<T>::type;
    using Index = typename Vector<T>::index;
    static constexpr int LANES = BYTES / sizeof(T);
    static_assert(SAMPLES * RUNS % LANES == 0);

    int64_t batch, dimension;
    T* inputs;     // [batch, dimension]
    T* targets;    // [batch]
    T* residuals;  // [batch, RUNS]

    // The samples `rows` [batch] of a training set, side by side: they are read many times.
    void fetch(const T* all_inputs, const T* all_targets, const int64_t* rows) {
        constexpr int64_t LINE = 64 / sizeof(T), AHEAD = 4;
        for (int64_t b = 0; b < batch; ++b) {
            const T* later = all_inputs + rows[std::min(b + AHEAD, batch - 1)] * dimension;
            for (int64_t j = 0; j < dimension; j += LINE) __builtin_prefetch(later + j);
            std::memcpy(inputs + b * dimension, all_inputs + rows[b] * dimension,
                        dimension * sizeof(T));
            targets[b] = all_targets[rows[b]];
        }
    }

    // The first `count` lanes from memory, zeros in the others.
    static V load(const T* from, int count) {
        V out{};
        std::memcpy(&out, from, count * sizeof(T));
        return out;
    }
    static V load(const T* from) {
        V out;
        std::memcpy(&out, from, sizeof(V));
        return out;
    }

    // Lane i of the result is the sum over the lanes of v[i]; v is used up.
    static V sums(V (&v)[LANES]) {
        Index even, odd;
        for (int i = 0; i < LANES; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
        for (int n = LANES / 2; n > 0; n /= 2)
            for (int i = 0; i < n; ++i)
                v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) +
                       __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
        return v[0];
    }

    // X w - y of R runs [R, dimension].
    template <int R>
    void find_residuals(const T* weights) {
        const int64_t whole = dimension / LANES * LANES;
        const int rest = (int)(dimension - whole);
        for (int64_t b = 0; b < batch; b += SAMPLES) {
            const T* x[SAMPLES];  // a sample past the last is the last again
            for (int s = 0; s < SAMPLES; ++s)
                x[s] = inputs + std::min(b + s, batch - 1) * dimension;
            V sum[SAMPLES][RUNS]{};
            const auto add = [&](auto from, int64_t j) {
                V row[SAMPLES];
                for (int s = 0; s < SAMPLES; ++s) row[s] = from(x[s] + j);
                for (int r = 0; r < R; ++r) {
                    const V w = from(weights + r * dimension + j);
                    for (int s = 0; s < SAMPLES; ++s) sum[s][r] += row[s] * w;
                }
            };
            for (int64_t j = 0; j < whole; j += LANES)
                add([](const T* from) { return load(from); }, j);
            if (rest) add([rest](const T* from) { return load(from, rest); }, whole);
            T products[SAMPLES * RUNS];
            for (int i = 0; i < SAMPLES * RUNS; i += LANES) {
                V some[LANES];
                for (int k = 0; k < LANES; ++k) some[k] = sum[(i + k) / RUNS][(i + k) % RUNS];
                const V total = sums(some);
                std::memcpy(products + i, &total, sizeof(V));
            }
            for (int s = 0; s < SAMPLES && b + s < batch; ++s)
                for (int r = 0; r < R; ++r)
                    residuals[(b + s) * RUNS + r] = products[s * RUNS + r] - targets[b + s];
        }
    }

    // The gradients of R runs at C vectors of columns from the j-th on, of the last only `count`.
    template <int R, int C>
    void find_columns(int64_t j, int count, T* out) const {
        if (count == LANES)
            find_columns<R, C>([](const T* from) { return load(from); }, j, count, out);
        else
            find_columns<R, C>([=](const T* from) { return load(from, count); }, j, count, out);
    }

    template <int R, int C>
    void find_columns(auto load_last, int64_t j, int count, T* out) const {
        V sum[R][C]{};
        const T *x = inputs + j, *residual = residuals;
        for (int64_t b = 0; b < batch; ++b, x += dimension, residual += RUNS) {
            V row[C];
            for (int c = 0; c < C - 1; ++c) row[c] = load(x + c * LANES);
            row[C - 1] = load_last(x + (C - 1) * LANES);
            for (int r = 0; r < R; ++r)
                for (int c = 0; c < C; ++c) sum[r][c] += row[c] * residual[r];
        }
        for (int r = 0; r < R; ++r)
            for (int c = 0; c < C; ++c) {
                const V mean = sum[r][c] / (T)batch;  // the sums themselves stay in registers
                std::memcpy(out + r * dimension + j + c * LANES, &mean,
                            (c < C - 1 ? LANES : count) * sizeof(T));
            }
    }

    template <int R>
    void gradient(const T* weights, T* out, T* losses) {
        find_residuals<R>(weights);
        const int64_t vectors = (dimension + LANES - 1) / LANES;
        for (int64_t v = 0; v < vectors; v += COLUMNS) {
            const int64_t last = std::min(v + COLUMNS, vectors);
            const int count = (int)std::min<int64_t>(LANES, dimension - (last - 1) * LANES);
            switch (last - v) {
                case 1: find_columns<R, 1>(v * LANES, count, out); break;
                case 2: find_columns<R, 2>(v * LANES, count, out); break;
                default: find_columns<R, COLUMNS>(v * LANES, count, out);
            }
        }
        for (int r = 0; r < R; ++r) {
            T square = 0;
            for (int64_t b = 0; b < batch; ++b)
                square += residuals[b * RUNS + r] * residuals[b * RUNS + r];
            losses[r] = square / (2 * (T)batch);
        }
    }

    void gradients(int64_t runs, const T* weights, T* out, T* losses) {
        int64_t r = 0;
        const auto take = [&]<int R>() {
            for (; r + R <= runs; r += R)
                gradient<R>(weights + r * dimension, out + r * dimension, losses + r);
        };
        take.template operator()<RUNS>();
        take.template operator()<4>();
        take.template operator()<2>();
        take.template operator()<1>();
    }
};

// Room for `count` numbers, kept from call to call: fresh pages would cost as much as they are used.
template <typename T>
T* scratch(int64_t count) {
    thread_local std::unique_ptr<T[]> room;
    thread_local int64_t size = 0;
    if (count > size) {
        size = 0;
        room.reset(new (std::nothrow) T[count]);
        if (room) size = count;
    }
    return room.get();
}

// Inputs [samples, dimension] and targets [samples] are the whole training set. Runs come in groups,
// of which group g takes the samples `rows` [groups, batch] and has the runs from bounds[g] to
// bounds[g + 1] of weights and gradients [runs, dimension]. Returns 0, or 1 where there is no memory
// for the scratch space.
template <typename T>
int gradients(int64_t groups, const int64_t* bounds, const int64_t* rows, int64_t batch,
              const T* inputs, const T* targets, int64_t dimension, const T* weights, T* out,
              T* losses) {
    T* copies = scratch<T>(batch * (dimension + 1 + RUNS));
    if (!copies) return 1;
    T* rest = copies + batch * dimension;
    LinearModel<T> model{batch, dimension, copies, rest, rest + batch};
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = bounds[g];
        model.fetch(inputs, targets, rows + g * batch);
        model.gradients(bounds[g + 1] - first, weights + first * dimension,
                        out + first * dimension, losses + first);
    }
    return 0;
}

}  // namespace

#define EXPORT(T, NAME)                                                                      \
    extern "C" int linear_model_gradients_##NAME(                                            \
        int64_t groups, const int64_t* bounds, const int64_t* rows, int64_t batch,           \
        const T* inputs, const T* targets, int64_t dimension, const T* weights, T* out,      \
        T* losses) {                                                                         \
        return gradients<T>(groups, bounds, rows, batch, inputs, targets, dimension, weights, \
                            out, losses);                                                    \
    }

EXPORT(float, float32)
EXPORT(double, float64)
