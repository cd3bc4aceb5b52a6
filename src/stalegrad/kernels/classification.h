// What classifiers of images have in common: the loss, the predicted class, the test set.

#pragma once

#include <cmath>
#include <cstdint>

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

// Of a network; 1 where that is null.
template <typename T, class Network>
int predictions(Network* net, const TestSet& all) {
    if (!net) return 1;
    for (int64_t r = 0; r < all.runs; ++r)
        net->predict((const T*)all.weights + r * all.dimension, all.inputs, all.targets, all.count,
                     (T)all.options[0], (T)all.options[1], all.losses + r * all.count,
                     all.classes + r * all.count);
    return 0;
}

}  // namespace

#define EXPORT_PREDICTIONS(PROBLEM, T, NAME)                                                      \
    extern "C" int PROBLEM##_predictions_##NAME(const TestSet* all) {                             \
        return PROBLEM##_predictions<T>(*all);                                                    \
    }
