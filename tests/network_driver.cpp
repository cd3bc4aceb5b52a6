// A kernel of a network on images without Python, for builds that run under emulation: reads a case
// from standard input and writes what the kernel makes of it to standard output, in the machine's own
// numbers. Its one argument names the precision T: float32 or float64; KERNEL is defined to the
// kernel's name.
//
// In:  runs, batch, parameters P, random bytes N of a sample (int64); options (2 double); weights
//      [runs, P] (T); images [runs, batch, 28, 28] (uint8); labels [runs, batch] (int64); noise
//      [runs, batch, N] (uint8).
// Out: gradients [runs, P], losses [runs] (T); then, of the first run's images as a test set,
//      losses [runs, batch] (double) and classes [runs, batch] (int64).

#include <numeric>

#include "classification.h"
#include "driver.h"

FUNCTIONS(Minibatches, gradients)
FUNCTIONS(TestSet, predictions)

template <class T>
int run(int (*compute)(const Minibatches*), int (*predict)(const TestSet*)) {
    const auto sizes = read<int64_t>(4);
    const int64_t runs = sizes[0], batch = sizes[1], parameters = sizes[2];
    const auto options = read<double>(2);
    const auto weights = read<T>(runs * parameters);
    const auto images = read<uint8_t>(runs * batch * 28 * 28);
    const auto labels = read<int64_t>(runs * batch);
    const auto noise = read<uint8_t>(runs * batch * sizes[3]);
    std::vector<T> gradients(runs * parameters), losses(runs);
    std::vector<int64_t> rows(runs * batch), bounds(runs + 1);
    std::iota(rows.begin(), rows.end(), 0);
    std::iota(bounds.begin(), bounds.end(), 0);

    Minibatches minibatches{};
    minibatches.groups = runs, minibatches.batch = batch;
    minibatches.bounds = bounds.data(), minibatches.rows = rows.data();
    minibatches.inputs = images.data(), minibatches.targets = labels.data();
    minibatches.dimension = minibatches.width = parameters;
    minibatches.options = options.data(), minibatches.weights = weights.data();
    minibatches.gradients = gradients.data(), minibatches.losses = losses.data();
    minibatches.noise = sizes[3] ? noise.data() : nullptr;
    if (compute(&minibatches)) return 1;
    write(gradients);
    write(losses);

    std::vector<double> test_losses(runs * batch);
    std::vector<int64_t> classes(runs * batch);
    TestSet test_set{};
    test_set.runs = runs, test_set.count = batch;
    test_set.inputs = images.data(), test_set.targets = labels.data();
    test_set.dimension = test_set.width = parameters;
    test_set.options = options.data(), test_set.weights = weights.data();
    test_set.losses = test_losses.data(), test_set.classes = classes.data();
    if (predict(&test_set)) return 1;
    write(test_losses);
    write(classes);
    return 0;
}

int main(int, char** arguments) {
    if (!std::strcmp(arguments[1], "float64"))
        return run<double>(NAMED(gradients_float64), NAMED(predictions_float64));
    return run<float>(NAMED(gradients_float32), NAMED(predictions_float32));
}
