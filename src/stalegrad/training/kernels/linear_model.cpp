// Half the mean squared residual of a linear model, |X w - y|^2 / (2 B): loss and gradient
// X'(X w - y) / B of many runs at once, on a CPU.
//
// Some runs are taken together, so that every number of X that is loaded serves all of them: first
// all residuals, in tiles of samples by runs, then the gradient, in tiles of runs by vectors of
// columns. A minibatch of the size that matters stays in the second-level cache between the two
// passes. Both precisions come from one template.

#include <algorithm>

#include "replay.h"

namespace {

// Blocking: sums that an inner loop keeps in registers, of samples by runs for the residuals, and of
// runs by vectors of columns for the gradient. At least eight keep two multiply-add units busy.
constexpr bool MANY = REGISTERS >= 32;
constexpr int SAMPLES = 2, RUNS = MANY ? 8 : 4, COLUMNS = MANY ? 3 : 2;

template <typename T>
struct LinearModel {
    using V = Vector<T>;
    static constexpr int LANES = ::LANES<T>;
    static_assert(SAMPLES * RUNS % LANES == 0);

    int64_t batch, dimension, width;
    T* inputs;     // [batch, dimension]
    T* targets;    // [batch]
    T* residuals;  // [batch, RUNS]

    // The samples `rows` [batch] of a training set, side by side: they are read many times.
    void fetch(const T* all_inputs, const T* all_targets, const int64_t* rows) {
        constexpr int64_t LINE = 64 / sizeof(T);
        for (int64_t b = 0; b < batch; ++b) {
            const T* later = all_inputs + rows[std::min(b + AHEAD, batch - 1)] * width;
            for (int64_t j = 0; j < dimension; j += LINE) __builtin_prefetch(later + j);
            std::memcpy(inputs + b * dimension, all_inputs + rows[b] * width,
                        dimension * sizeof(T));
            targets[b] = all_targets[rows[b]];
        }
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
                const V total = sums<T>(some);
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
        if (RUNS > 4) take.template operator()<4>();
        take.template operator()<2>();
        take.template operator()<1>();
    }
};

// The same of one run, as `replay` asks for it: for minibatches so small that the calls around a step
// would take longer than the step.
template <typename T>
struct SmallModel {
    using V = Vector<T>;
    static constexpr int L = LANES<T>;

    int64_t batch, width;
    const T* inputs;   // [samples, width]
    const T* targets;  // [samples]
    T* residuals;      // [batch], up to a whole vector
    const int64_t* rows = nullptr;
    V squares{};

    void expect(const int64_t* later) const {
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t j = 0; j < width; j += L)
                __builtin_prefetch(inputs + later[b] * width + j);
    }

    void start(const T* x, const int64_t* minibatch) {
        rows = minibatch;
        squares = V{};
        for (int64_t first = 0; first < batch; first += L) {
            const int here = (int)std::min<int64_t>(L, batch - first);
            V products[L]{};
            V wanted{};
            for (int b = 0; b < here; ++b) {
                const T* row = inputs + rows[first + b] * width;
                for (int64_t j = 0; j < width; j += L) products[b] += load(row + j) * load(x + j);
                wanted[b] = targets[rows[first + b]];
            }
            const V residual = sums<T>(products) - wanted;
            store(residuals + first, residual);
            squares += residual * residual;
        }
    }

    V gradient(int64_t j) const {
        V total{};
        for (int64_t b = 0; b < batch; ++b) total += load(inputs + rows[b] * width + j) * residuals[b];
        return total / (T)batch;
    }

    T loss() const { return sum<T>(squares) / (2 * (T)batch); }
};

template <typename T>
int linear_model_gradients(const Minibatches& all) {
    T* copies = scratch<T>(all.batch * (all.dimension + 1 + RUNS));
    if (!copies) return 1;
    T* rest = copies + all.batch * all.dimension;
    LinearModel<T> model{all.batch, all.dimension, all.width, copies, rest, rest + all.batch};
    for (int64_t g = 0; g < all.groups; ++g) {
        const int64_t first = all.bounds[g] * all.dimension;
        model.fetch((const T*)all.inputs, (const T*)all.targets, all.rows + g * all.batch);
        model.gradients(all.bounds[g + 1] - all.bounds[g], (const T*)all.weights + first,
                        (T*)all.gradients + first, (T*)all.losses + all.bounds[g]);
    }
    return 0;
}

template <typename T>
int linear_model_replay(const Stretch& all) {
    T* residuals = scratch<T, 1>(round_up(all.batch, LANES<T>));
    if (!residuals) return 1;
    SmallModel<T> model{all.batch, all.width, (const T*)all.inputs, (const T*)all.targets,
                        residuals};
    return replay_nearby<T>(model, all);
}

}  // namespace

EXPORT(linear_model, float, float32)
EXPORT(linear_model, double, float64)
