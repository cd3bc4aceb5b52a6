// Nesterov's chain: (L - mu)/4 sum_i phi(x_i - x_{i+1}) + mu/2 |x|^2 + xi.x with i = 0..d, x_0 = 1 and
// x_{d+1} = 0, where phi(r) is r^2 / 2 or r^2 / (2 (1 + r^2)) and xi the mean noise of a minibatch.
//
// A step on a hundred links is a few dozen instructions on vectors: neighbours are the same vector
// shifted by a lane, so that every number is loaded once, and weights are updated while they stand in
// a register. One run after another goes through all its arrivals, its weights in the first-level
// cache.

#include "replay.h"

namespace {

// SQUARE: phi is r^2 / 2.
template <typename T, bool SQUARE>
struct Chain {
    using V = Vector<T>;
    static constexpr int L = LANES<T>;

    int64_t batch, dimension, width;
    T scale, modulus;  // (L - mu)/4 and mu
    const T* noise;    // [samples, width]
    T* mean;           // [width], of a minibatch of more than one sample
    const T *x = nullptr, *drawn = nullptr;
    V next{}, slope_before{}, losses{};

    void expect(const int64_t* rows) const {
        for (int64_t b = 0; b < batch; ++b)
            for (int64_t j = 0; j < dimension; j += L)
                __builtin_prefetch(noise + rows[b] * width + j);
    }

    static void look_at(V r, V& value, V& slope) {
        const V square = r * r;
        if (SQUARE) {
            value = square / 2;
            slope = r;
        } else {
            const V share = 1 / (1 + square);
            value = square * share / 2;
            slope = r * share * share;
        }
    }

    void start(const T* weights, const int64_t* rows) {
        x = weights;
        drawn = batch == 1 ? noise + rows[0] * width : mean_of(rows);
        next = load(x);
        V value;
        look_at(V{} + (1 - x[0]), value, slope_before);
        losses = V{};
        losses[0] = scale * value[0];
    }

    const T* mean_of(const int64_t* rows) const {
        for (int64_t j = 0; j < width; j += L) {
            V total{};
            for (int64_t b = 0; b < batch; ++b) total += load(noise + rows[b] * width + j);
            store(mean + j, total / (T)batch);
        }
        return mean;
    }

    V gradient(int64_t j) {
        Index<T> lane, one_on, one_back;
        for (int i = 0; i < L; ++i) lane[i] = i, one_on[i] = i + 1, one_back[i] = L - 1 + i;
        const V here = next, xi = load(drawn + j);
        next = j + L < width ? load(x + j + L) : V{};
        V value, slope;
        look_at(here - __builtin_shuffle(here, next, one_on), value, slope);
        const V pull = slope - __builtin_shuffle(slope_before, slope, one_back);
        slope_before = slope;
        losses += scale * value + here * (modulus / 2 * here + xi);
        const V out = scale * pull + modulus * here + xi;
        if (j + L <= dimension) return out;
        return lane < Index<T>{} + (int)(dimension - j) ? out : V{};
    }

    T loss() const { return sum<T>(losses); }
};

// Calls `work` with the chain that `all` is about, whose `options` are (L - mu)/4, mu, and 1 where phi
// is r^2 / 2. Returns what it does, or 1 where there is no memory.
template <typename T>
int with_chain(const auto& all, auto work) {
    T* mean = scratch<T, 1>(all.width);
    if (!mean) return 1;
    const auto with = [&]<bool SQUARE>() {
        Chain<T, SQUARE> chain{all.batch, all.dimension, all.width, (T)all.options[0],
                               (T)all.options[1], (const T*)all.inputs, mean};
        return work(chain);
    };
    return all.options[2] ? with.template operator()<true>() : with.template operator()<false>();
}

template <typename T>
int chain_replay(const Stretch& all) {
    return with_chain<T>(all, [&](auto& chain) { return replay_nearby<T>(chain, all); });
}

template <typename T>
int chain_gradients(const Minibatches& all) {
    return with_chain<T>(all, [&](auto& chain) { return gradients<T>(chain, all); });
}

}  // namespace

EXPORT(chain, float, float32)
EXPORT(chain, double, float64)
