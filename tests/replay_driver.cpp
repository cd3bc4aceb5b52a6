// A kernel that replays (see replay.h) without Python, for builds that run under emulation: reads a
// case from standard input and writes what the kernel makes of it to standard output, in the
// machine's own numbers. Its one argument names the precision T: float32 or float64; KERNEL is
// defined to the kernel's name.
//
// In:  batch, dimension, width, samples, bytes of a target, options, runs, arrivals, slots (int64);
//      options (double); inputs [samples, width] (T); targets [samples]; rows [arrivals, batch]
//      (int64); read, write [arrivals] (int32); rates [runs], weights [runs, dimension] (T).
// Out: gradients [runs, dimension] and losses [runs] (T) of the first minibatch; then weights
//      [runs, dimension] (T) and sums of losses [runs] (double) after all arrivals.

#include "driver.h"

FUNCTIONS(Minibatches, gradients)
FUNCTIONS(Stretch, replay)

template <class T>
int run(int (*gradients)(const Minibatches*), int (*replay)(const Stretch*)) {
    const auto sizes = read<int64_t>(9);
    const int64_t batch = sizes[0], dimension = sizes[1], width = sizes[2], samples = sizes[3];
    const int64_t runs = sizes[6], arrivals = sizes[7], slots = sizes[8];
    const auto options = read<double>(sizes[5]);
    const auto inputs = read<T>(samples * width);
    const auto targets = read<char>(samples * sizes[4]);
    const auto rows = read<int64_t>(arrivals * batch);
    const auto from = read<int32_t>(arrivals), to = read<int32_t>(arrivals);
    const auto rates = read<T>(runs);
    auto weights = read<T>(runs * dimension);
    std::vector<T> out(runs * dimension), losses(runs), saved(slots * runs * dimension);
    std::vector<double> sums(runs);
    const std::vector<int64_t> bounds{0, runs};

    Minibatches minibatches{};
    minibatches.groups = 1, minibatches.batch = batch;
    minibatches.bounds = bounds.data(), minibatches.rows = rows.data();
    minibatches.inputs = inputs.data(), minibatches.targets = targets.data();
    minibatches.dimension = dimension, minibatches.width = width;
    minibatches.options = options.data(), minibatches.weights = weights.data();
    minibatches.gradients = out.data(), minibatches.losses = losses.data();
    if (gradients(&minibatches)) return 1;
    write(out);
    write(losses);

    Stretch stretch{};
    stretch.count = arrivals, stretch.batch = batch, stretch.local_steps = 1;
    stretch.rows = rows.data();
    stretch.read = from.data(), stretch.write = to.data(), stretch.per_update = 1;
    stretch.inputs = inputs.data(), stretch.targets = targets.data();
    stretch.dimension = dimension, stretch.width = width, stretch.options = options.data();
    stretch.rates = rates.data(), stretch.runs = runs, stretch.weights = weights.data();
    stretch.saved = saved.data(), stretch.slots = slots, stretch.apart = runs * dimension;
    stretch.losses = sums.data();
    if (replay(&stretch)) return 1;
    write(weights);
    write(sums);
    return 0;
}

int main(int, char** arguments) {
    if (!std::strcmp(arguments[1], "float64"))
        return run<double>(NAMED(gradients_float64), NAMED(replay_float64));
    return run<float>(NAMED(gradients_float32), NAMED(replay_float32));
}
