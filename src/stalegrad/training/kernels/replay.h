// Replay of whole stretches: at each arrival of a run the gradient at the weights it was computed at,
// and the step of SGD, DC-ASGD or Adam, without a word to the caller in between. What is a problem's
// own is a class with
//
//     void start(const T* x, const int64_t* rows);  // a minibatch, at weights x
//     Vector<T> gradient(int64_t j);                // from weight j on, in order, a vector at a time
//     T loss();                                     // once all of the gradient has been asked for
//     void expect(const int64_t* rows);             // a minibatch to come: fetch it into the cache
//
// Weights may be changed behind the vector that `gradient` was last asked for.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "vectors.h"

namespace {

constexpr int64_t AHEAD = 4;  // minibatches

}  // namespace

// What a call takes the gradients of. Runs come in groups, of which group g has the samples `rows`
// [groups, batch] and the runs from bounds[g] to bounds[g + 1]. Names as in `Stretch`. noise: random
// bytes [groups, batch, a problem's number] where a problem takes any, or null.
struct Minibatches {
    int64_t groups, batch;
    const int64_t *bounds, *rows;
    const void *inputs, *targets;
    int64_t dimension, width;
    const double* options;
    const void* weights;      // [runs, dimension]
    void *gradients, *losses; // [runs, dimension] and [runs]
    const uint8_t* noise;
};

// What a call replays: the same arrivals of each of some runs. The same for both precisions; numbers
// that have the precision of the weights are named T. Null where there is no such thing.
struct Stretch {
    // Arrivals: samples of the minibatches of each [count, local_steps, batch]; slots that its weights
    // are read from, and that the weights before its update are kept in [count], -1 for the weights as
    // they are, and for nowhere; factors T [count] of the learning rate, and scales T [count] of the
    // gradients; how many make an update, and how many of that have come before. noise: random bytes
    // [count, local_steps, batch, a problem's number], as in `Minibatches`.
    int64_t count, batch, local_steps;
    const int64_t* rows;
    const uint8_t* noise;
    const int32_t *read, *write;
    const void *factors, *scales;
    int64_t per_update, waiting;
    // The problem: inputs T [samples, width], zeros behind its `dimension` columns; targets; numbers.
    const void *inputs, *targets;
    int64_t dimension, width;
    const double* options;
    // The rule: learning rates T [runs], and those of steps on a worker, which are looked at where
    // there are several local steps; the rest is the same for all. Where it `compensates`, see
    // rules/dc_asgd.py; `aliased` is its as_published. Where it is `adam`, see rules/adam.py.
    const void *rates, *local_rates;
    double momentum, weight_decay, compensation, decay, epsilon;
    int64_t nesterov, compensates, adaptive, aliased;
    double beta1, beta2, rest1, rest2;
    int64_t adam;
    // The runs: weights, velocity (Adam's mean), mean squares and pending gradients
    // T [runs, dimension]; Adam's decays [runs]; `slots` old weights of each, `apart` numbers from one
    // slot to the next; sums of losses [runs], which are added to.
    int64_t runs;
    void *weights, *velocity, *mean_square, *pending, *saved;
    double *decay1, *decay2;
    int64_t slots, apart;
    double* losses;
};

namespace {

// Where one run's numbers lie: rows of `length`, old weights `apart` numbers from one slot to the next.
template <typename T>
struct Numbers {
    T rate;
    int64_t length, apart;
    T *weights, *velocity, *mean_square, *pending, *saved;
    double *decay1, *decay2;
};

template <typename T>
Vector<T> square_root(Vector<T> v) {
    for (int i = 0; i < LANES<T>; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

// The sum of the losses of all arrivals.
template <typename T, class Problem>
double replay(Problem& problem, const Stretch& all, const Numbers<T>& run) {
    using V = Vector<T>;
    const T *factors = (const T*)all.factors, *scales = (const T*)all.scales;
    const T momentum = (T)all.momentum, weight_decay = (T)all.weight_decay;
    const T compensation = (T)all.compensation, decay = (T)all.decay, epsilon = (T)all.epsilon;
    const T beta1 = (T)all.beta1, beta2 = (T)all.beta2;
    const T rest1 = (T)all.rest1, rest2 = (T)all.rest2;
    const int64_t whole = run.length / LANES<T> * LANES<T>;
    const int rest = (int)(run.length - whole);
    const int64_t taken = all.local_steps * all.batch;
    double total = 0;
    int64_t waiting = all.waiting;
    for (int64_t i = 0; i < all.count; ++i) {
        if (i + AHEAD < all.count) problem.expect(all.rows + (i + AHEAD) * taken);
        const T* read = all.read[i] < 0 ? run.weights : run.saved + all.read[i] * run.apart;
        T* kept = all.write[i] < 0 ? nullptr : run.saved + all.write[i] * run.apart;
        const bool updates = ++waiting == all.per_update;
        if (updates) waiting = 0;
        T rate = factors ? run.rate * factors[i] : run.rate, root = 1;
        if (all.adam && updates) {
            *run.decay1 -= *run.decay1 * rest1;
            *run.decay2 -= *run.decay2 * rest2;
            rate = (T)(rate / (1 - *run.decay1));
            root = (T)std::sqrt(1 - *run.decay2);
        }
        problem.start(read, all.rows + i * taken);
        const auto step = [&](int64_t j, auto load, auto store) {
            V gradient = problem.gradient(j);
            const V weights = load(run.weights + j);
            if (all.compensates) {
                const V square = gradient * gradient;
                V strength = V{} + compensation;
                if (all.adaptive) {
                    const V mean = load(run.mean_square + j) * decay + square * (1 - decay);
                    store(run.mean_square + j, mean);
                    strength /= square_root<T>(mean + epsilon);
                }
                const V backup = all.aliased ? weights : load(read + j);
                gradient += square * strength * (weights - backup);
            }
            if (scales) gradient *= scales[i];
            if (run.pending) {
                gradient += load(run.pending + j);
                store(run.pending + j, updates ? V{} : gradient);
                if (!updates) return;
                gradient /= (T)all.per_update;
            }
            if (kept) store(kept + j, weights);
            if (weight_decay) gradient += weights * weight_decay;
            if (all.adam) {
                const V mean = load(run.velocity + j) * beta1 + gradient * rest1;
                const V square = load(run.mean_square + j) * beta2 + gradient * gradient * rest2;
                store(run.velocity + j, mean);
                store(run.mean_square + j, square);
                gradient = mean / (square_root<T>(square) / root + epsilon);
            } else if (run.velocity) {
                const V velocity = gradient + load(run.velocity + j) * momentum;
                store(run.velocity + j, velocity);
                gradient = all.nesterov ? gradient + velocity * momentum : velocity;
            }
            store(run.weights + j, weights - gradient * rate);
        };
        for (int64_t j = 0; j < whole; j += LANES<T>)
            step(j, [](const T* from) { return load(from); },
                 [](T* to, const V& v) { store(to, v); });
        if (rest)
            step(whole, [rest](const T* from) { return load(from, rest); },
                 [rest](T* to, const V& v) { store(to, v, rest); });
        total += problem.loss();
    }
    return total;
}

// What a worker sends after several steps: the gradients of its minibatches, each taken where plain SGD
// has come from the ones before, added up.
template <typename T, class Problem>
struct LocalSteps {
    using V = Vector<T>;
    Problem& problem;
    int64_t steps, batch, length;
    T rate;
    T *x, *sum;  // [length], up to a whole vector
    T lost = 0;

    void expect(const int64_t* rows) const { problem.expect(rows); }

    void start(const T* weights, const int64_t* rows) {
        std::copy_n(weights, length, x);
        std::fill_n(sum, round_up(length, LANES<T>), T{});
        lost = 0;
        for (int64_t s = 0; s < steps; ++s) {
            problem.start(x, rows + s * batch);
            for (int64_t j = 0; j < length; j += LANES<T>) {
                const V gradient = problem.gradient(j);
                store(sum + j, load(sum + j) + gradient);
                store(x + j, load(x + j) - gradient * rate);
            }
            lost += problem.loss();
        }
    }

    V gradient(int64_t j) const { return load(sum + j); }
    T loss() const { return lost / (T)steps; }
};

// Replays run r with the local steps that it has. `failed` becomes 1 where there is no memory.
template <typename T, class Problem>
double replay_rounds(Problem& problem, const Stretch& all, const Numbers<T>& run, int64_t r,
                     int& failed) {
    if (all.local_steps == 1) return replay(problem, all, run);
    const int64_t room = round_up(run.length, LANES<T>);
    T* rows = scratch<T, 2>(2 * room);
    if (!rows) return failed = 1, 0;
    std::fill_n(rows, 2 * room, T{});
    LocalSteps<T, Problem> rounds{problem, all.local_steps, all.batch, run.length,
                                  ((const T*)all.local_rates)[r], rows, rows + room};
    return replay(rounds, all, run);
}

// The numbers of run r where the caller has them.
template <typename T>
Numbers<T> in_place(const Stretch& all, int64_t r) {
    const auto row = [&](void* of) { return of ? (T*)of + r * all.dimension : nullptr; };
    return {((const T*)all.rates)[r], all.dimension, all.apart, row(all.weights), row(all.velocity),
            row(all.mean_square), row(all.pending), row(all.saved),
            all.adam ? all.decay1 + r : nullptr, all.adam ? all.decay2 + r : nullptr};
}

// Returns 0, or 1 where there is no memory for local steps.
template <typename T, class Problem>
int replay_in_place(Problem& problem, const Stretch& all) {
    int failed = 0;
    for (int64_t r = 0; r < all.runs && !failed; ++r)
        all.losses[r] += replay_rounds(problem, all, in_place<T>(all, r), r, failed);
    return failed;
}

// Replays each run in rows that are filled with zeros to whole vectors, and lie close together.
// Returns 0, or 1 where there is no memory for them.
template <typename T, class Problem>
int replay_nearby(Problem& problem, const Stretch& all) {
    const int64_t dimension = all.dimension, width = all.width, room = (4 + all.slots) * width;
    T* rows = scratch<T>(room);
    if (!rows) return 1;
    int failed = 0;
    for (int64_t r = 0; r < all.runs && !failed; ++r) {
        std::fill_n(rows, room, T{});
        const Numbers<T> there = in_place<T>(all, r);
        const auto row = [&](const T* of, int number) { return of ? rows + number * width : nullptr; };
        const Numbers<T> here{there.rate, width, width, row(there.weights, 0), row(there.velocity, 1),
                              row(there.mean_square, 2), row(there.pending, 3), rows + 4 * width,
                              there.decay1, there.decay2};
        const auto each = [&](auto copy) {
            copy(there.weights, here.weights);
            if (there.velocity) copy(there.velocity, here.velocity);
            if (there.mean_square) copy(there.mean_square, here.mean_square);
            if (there.pending) copy(there.pending, here.pending);
            for (int64_t s = 0; s < all.slots; ++s)
                copy(there.saved + s * there.apart, here.saved + s * width);
        };
        each([&](const T* from, T* to) { std::copy_n(from, dimension, to); });
        all.losses[r] += replay_rounds(problem, all, here, r, failed);
        each([&](T* to, const T* from) { std::copy_n(from, dimension, to); });
    }
    return failed;
}

// Gradients alone, a run after the other.
template <typename T, class Problem>
int gradients(Problem& problem, const Minibatches& all) {
    T* x = scratch<T>(2 * all.width);
    if (!x) return 1;
    T* out = x + all.width;
    std::fill_n(x, all.width, T{});
    for (int64_t g = 0; g < all.groups; ++g)
        for (int64_t r = all.bounds[g]; r < all.bounds[g + 1]; ++r) {
            std::copy_n((const T*)all.weights + r * all.dimension, all.dimension, x);
            problem.start(x, all.rows + g * all.batch);
            for (int64_t j = 0; j < all.width; j += LANES<T>) store(out + j, problem.gradient(j));
            std::copy_n(out, all.dimension, (T*)all.gradients + r * all.dimension);
            ((T*)all.losses)[r] = problem.loss();
        }
    return 0;
}

}  // namespace

// The two functions of a problem: 0, or 1 where there is no memory for scratch space.
#define EXPORT(PROBLEM, T, NAME)                                                               \
    extern "C" int PROBLEM##_gradients_##NAME(const Minibatches* all) {                        \
        return PROBLEM##_gradients<T>(*all);                                                   \
    }                                                                                          \
    extern "C" int PROBLEM##_replay_##NAME(const Stretch* all) { return PROBLEM##_replay<T>(*all); }

// How a structure lies in memory, field by field, with its size after the last: kernels/calls.py
// writes the structures down a second time, and compares when it loads a library.
struct Field {
    const char* name;
    int64_t offset, size;
};

#define LAYOUT(STRUCT, ...)                                                         \
    extern "C" [[gnu::used]] inline const Field* STRUCT##_layout() {                \
        using S = STRUCT;                                                           \
        static const Field fields[] = {__VA_ARGS__, {nullptr, sizeof(STRUCT), 0}};  \
        return fields;                                                              \
    }
#define FIELD(NAME) {#NAME, offsetof(S, NAME), sizeof(S::NAME)}

LAYOUT(Minibatches, FIELD(groups), FIELD(batch), FIELD(bounds), FIELD(rows), FIELD(inputs),
       FIELD(targets), FIELD(dimension), FIELD(width), FIELD(options), FIELD(weights),
       FIELD(gradients), FIELD(losses), FIELD(noise))
LAYOUT(Stretch, FIELD(count), FIELD(batch), FIELD(local_steps), FIELD(rows), FIELD(noise),
       FIELD(read), FIELD(write), FIELD(factors), FIELD(scales), FIELD(per_update), FIELD(waiting),
       FIELD(inputs), FIELD(targets), FIELD(dimension), FIELD(width), FIELD(options), FIELD(rates),
       FIELD(local_rates), FIELD(momentum), FIELD(weight_decay), FIELD(compensation), FIELD(decay),
       FIELD(epsilon), FIELD(nesterov),
       FIELD(compensates), FIELD(adaptive), FIELD(aliased), FIELD(beta1), FIELD(beta2),
       FIELD(rest1), FIELD(rest2), FIELD(adam), FIELD(runs), FIELD(weights), FIELD(velocity),
       FIELD(mean_square), FIELD(pending), FIELD(saved), FIELD(decay1), FIELD(decay2),
       FIELD(slots), FIELD(apart), FIELD(losses))
