// Steps with gradients that are given, not computed: what a server does with those of its workers.
// The step is the one of replay.h, so that a run is the same to the bit whether its gradients are
// computed in replay or arrive from elsewhere.

#include "replay.h"

namespace {

template <typename T>
struct Given {
    const T* gradients;  // [dimension], of the one arrival
    int64_t dimension;

    void start(const T*, const int64_t*) {}
    void expect(const int64_t*) {}
    T loss() const { return 0; }

    Vector<T> gradient(int64_t j) const {
        const int64_t left = dimension - j;
        return left < LANES<T> ? load(gradients + j, (int)left) : load(gradients + j);
    }
};

template <typename T>
int given_replay(const Stretch& all) {
    Given<T> problem{(const T*)all.inputs, all.dimension};
    return replay_in_place<T>(problem, all);
}

}  // namespace

extern "C" int given_replay_float32(const Stretch* all) { return given_replay<float>(*all); }
extern "C" int given_replay_float64(const Stretch* all) { return given_replay<double>(*all); }
