// The LeNet-5 kernel without Python, for builds that run under emulation: reads a case from standard
// input and writes what the kernel makes of it to standard output, in the machine's own numbers. Its
// one argument names the precision T: float32 or float64.
//
// In:  runs, batch (int64); scale, shift (T); weights [runs, P] (T); images [runs, batch, 28, 28]
//      (uint8); labels [runs, batch] (int64).
// Out: gradients [runs, P], losses [runs] (T); then, of the first run's images as a test set,
//      losses [runs, batch] (double) and classes [runs, batch] (int64).

#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "replay.h"

#define FUNCTIONS(T, NAME)                                                                       \
    extern "C" int lenet5_gradients_##NAME(const Minibatches*);                                  \
    extern "C" int lenet5_predictions_##NAME(int64_t, const T*, const uint8_t*, const int64_t*,  \
                                             int64_t, T, T, double*, int64_t*);
FUNCTIONS(float, float32)
FUNCTIONS(double, float64)

template <class U>
std::vector<U> read(size_t count) {
    std::vector<U> values(count);
    if (std::fread(values.data(), sizeof(U), count, stdin) != count) std::exit(2);
    return values;
}

template <class U>
void write(const std::vector<U>& values) {
    std::fwrite(values.data(), sizeof(U), values.size(), stdout);
}

template <class T, class Gradients, class Predictions>
int run(Gradients compute, Predictions predict) {
    constexpr size_t parameters = 61706, pixels = 28 * 28;
    const auto sizes = read<int64_t>(2);
    const size_t runs = sizes[0], batch = sizes[1];
    const auto map = read<T>(2);
    const auto weights = read<T>(runs * parameters);
    const auto images = read<uint8_t>(runs * batch * pixels);
    const auto labels = read<int64_t>(runs * batch);
    std::vector<T> gradients(runs * parameters), losses(runs);
    std::vector<double> test_losses(runs * batch);
    std::vector<int64_t> classes(runs * batch);
    std::vector<int64_t> rows(runs * batch), bounds(runs + 1);
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(bounds.begin(), bounds.end(), 0);
    const double options[] = {map[0], map[1]};
    Minibatches minibatches{};
    minibatches.groups = runs, minibatches.batch = batch;
    minibatches.bounds = bounds.data(), minibatches.rows = rows.data();
    minibatches.inputs = images.data(), minibatches.targets = labels.data();
    minibatches.options = options, minibatches.weights = weights.data();
    minibatches.gradients = gradients.data(), minibatches.losses = losses.data();
    if (compute(&minibatches) ||
        predict(runs, weights.data(), images.data(), labels.data(), batch, map[0], map[1],
                test_losses.data(), classes.data()))
        return 1;
    write(gradients);
    write(losses);
    write(test_losses);
    write(classes);
    return 0;
}

int main(int, char** arguments) {
    if (!std::strcmp(arguments[1], "float64"))
        return run<double>(lenet5_gradients_float64, lenet5_predictions_float64);
    return run<float>(lenet5_gradients_float32, lenet5_predictions_float32);
}
