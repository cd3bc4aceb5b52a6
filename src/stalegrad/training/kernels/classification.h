// What classifiers of images have in common: the loss, the predicted class, and the functions of a
// kernel, given a class with
//
//     T gradient(const T* w, const Images& of, T* out);  // mean loss; its gradient in `out`
//     void predict(const T* w, const Images& of, double* losses, int64_t* classes);

#pragma once

#include <cmath>
#include <cstdint>

#include "replay.h"

// What a call evaluates: all `count` samples, for each of some runs. Names as in replay.h.
struct TestSet {
    int64_t runs, count;
    const uint8_t* inputs;
    const int64_t* targets;
    int64_t dimension, width;
    const double* options;
    const void* weights;  // T [runs, dimension]
    double* losses;       // [runs, count]
    int64_t* classes;     // [runs, count], as predicted
};

namespace {

constexpr int CLASSES = 10;

// Of the logits [CLASSES]; p [CLASSES] receives their softmax.
template <typename T>
T cross_entropy(const T* logits, int64_t label, T* p) {
    T top = logits[0], total = 0;
    for (int c = 1; c < CLASSES; ++c) top = logits[c] <= top ? top : logits[c];
    for (int c = 0; c < CLASSES; ++c) total += p[c] = std::exp(logits[c] - top);
    for (int c = 0; c < CLASSES; ++c) p[c] /= total;
    return std::log(total) + top - logits[label];
}

// The class torch.argmax gives: the first maximum, a NaN counting as larger than any number.
template <typename T>
int predicted_class(const T* logits) {
    int best = 0;
    for (int c = 1; c < CLASSES; ++c) {
        const T z = logits[c], top = logits[best];
        if (z > top || (std::isnan(z) && !std::isnan(top))) best = c;
    }
    return best;
}

// What a network is to see. A pixel x stands for x * scale + shift.
struct Images {
    const uint8_t* pixels;  // [samples, 28, 28]
    const int64_t* labels;  // [samples]
    const int64_t* rows;    // [count], which of the samples; null for the first, in order
    const uint8_t* noise;   // random bytes of each row, one after another, or null
    int64_t count;
    double scale, shift;

    int64_t row(int64_t i) const { return rows ? rows[i] : i; }
};

template <class Call>
Images images(const Call& all, const int64_t* rows, const uint8_t* noise, int64_t count) {
    return {(const uint8_t*)all.inputs, (const int64_t*)all.targets, rows, noise, count,
            all.options[0], all.options[1]};
}

// All return 0, or 1 where there is no memory for the scratch space.

template <typename T, class Network>
int network_gradients(const Minibatches& all) {
    auto* net = kept_scratch<Network>();
    if (!net) return 1;
    for (int64_t g = 0; g < all.groups; ++g) {
        const int64_t first = g * all.batch;
        const uint8_t* noise = all.noise ? all.noise + first * Network::RANDOM_BYTES : nullptr;
        const Images minibatch = images(all, all.rows + first, noise, all.batch);
        for (int64_t r = all.bounds[g]; r < all.bounds[g + 1]; ++r)
            ((T*)all.losses)[r] = net->gradient((const T*)all.weights + r * all.dimension, minibatch,
                                                (T*)all.gradients + r * all.dimension);
    }
    return 0;
}

// As `replay` asks for it.
template <typename T, class Network>
struct Trained {
    Network& net;
    const Stretch& all;
    T* out;  // [dimension], up to a whole vector
    T last_loss = 0;

    void expect(const int64_t*) const {}  // a minibatch takes longer than its images

    void start(const T* weights, const int64_t* rows) {
        const int64_t before = rows - all.rows;
        const uint8_t* noise = all.noise ? all.noise + before * Network::RANDOM_BYTES : nullptr;
        last_loss = net.gradient(weights, images(all, rows, noise, all.batch), out);
    }

    Vector<T> gradient(int64_t j) const { return load(out + j); }
    T loss() const { return last_loss; }
};

template <typename T, class Network>
int network_replay(const Stretch& all) {
    auto* net = kept_scratch<Network>();
    T* out = scratch<T>(round_up(all.dimension, LANES<T>));
    if (!net || !out) return 1;
    Trained<T, Network> problem{*net, all, out};
    return replay_in_place<T>(problem, all);
}

template <typename T, class Network>
int network_predictions(const TestSet& all) {
    auto* net = kept_scratch<Network>();
    if (!net) return 1;
    for (int64_t r = 0; r < all.runs; ++r)
        net->predict((const T*)all.weights + r * all.dimension,
                     images(all, nullptr, nullptr, all.count), all.losses + r * all.count,
                     all.classes + r * all.count);
    return 0;
}

}  // namespace

// The functions of a NETWORK<T>, as replay.h names them, and its evaluation.
#define EXPORT_NETWORK(PROBLEM, NETWORK, T, NAME)                                                 \
    extern "C" int PROBLEM##_gradients_##NAME(const Minibatches* all) {                           \
        return network_gradients<T, NETWORK<T>>(*all);                                            \
    }                                                                                             \
    extern "C" int PROBLEM##_replay_##NAME(const Stretch* all) {                                  \
        return network_replay<T, NETWORK<T>>(*all);                                               \
    }                                                                                             \
    extern "C" int PROBLEM##_predictions_##NAME(const TestSet* all) {                             \
        return network_predictions<T, NETWORK<T>>(*all);                                          \
    }

LAYOUT(TestSet, FIELD(runs), FIELD(count), FIELD(inputs), FIELD(targets), FIELD(dimension),
       FIELD(width), FIELD(options), FIELD(weights), FIELD(losses), FIELD(classes))
