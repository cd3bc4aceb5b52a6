// Where the time of LeNet-5's kernel goes: every layer, forward and backward, run alone on one tile.
// The data of a layer are those that a whole pass has left, and lie in the cache.

#include "lenet5.cpp"

namespace {

using Net = Lenet5<float>;

struct Pass {
    const float* w;
    Images images;
};

// Layer -> what runs it. Multiply-adds of an image are in layers.py, under the same numbers.
void run_layer(int layer, Net& net, const Pass& of) {
    const float* w = of.w;
    float loss = 0;
    switch (layer) {
        case 0: net.load(of.images, 0, Net::TILE); break;
        case 1:
            Net::convolve_pool<1, MAPS1, CONV1_MAPS, PADDED>(net.input, net.conv1_taps, w + CONV1_B,
                                                             net.pooled1, net.winner1);
            break;
        case 2:
            Net::convolve_pool<MAPS1, MAPS2, CONV2_MAPS, SIDE1>(
                net.pooled1, net.conv2_taps, w + CONV2_B, net.pooled2, net.winner2);
            break;
        case 3:
            Net::connect<FLAT, HIDDEN1, UNITS, true>(net.pooled2, w + FC1_W, w + FC1_B, net.hidden1);
            Net::connect<HIDDEN1, HIDDEN2, UNITS, true>(net.hidden1, w + FC2_W, w + FC2_B,
                                                        net.hidden2);
            Net::connect<HIDDEN2, CLASSES, CLASS_UNITS, false>(net.hidden2, w + FC3_W, w + FC3_B,
                                                               net.logits);
            break;
        case 4: net.lose(of.images, 0, Net::TILE, loss); break;
        case 5:
            net.connect_weight_gradient<HIDDEN2, CLASSES, CLASS_ROWS>(net.hidden2, net.d_logits,
                                                                      net.sum_fc3);
            net.connect_weight_gradient<HIDDEN1, HIDDEN2, ROWS>(net.hidden1, net.d_hidden2,
                                                                net.sum_fc2);
            net.connect_weight_gradient<FLAT, HIDDEN1, ROWS>(net.pooled2, net.d_hidden1,
                                                             net.sum_fc1);
            break;
        case 6:
            Net::connect_input_gradient<HIDDEN2, CLASSES, BACK_UNITS>(net.d_logits, w + FC3_W,
                                                                      net.hidden2, net.d_hidden2);
            Net::connect_input_gradient<HIDDEN1, HIDDEN2, BACK_UNITS>(
                net.d_hidden2, w + FC2_W, net.hidden1, net.d_hidden1);
            Net::connect_input_gradient<FLAT, HIDDEN1, BACK_FLAT>(net.d_hidden1, w + FC1_W,
                                                                  net.pooled2, net.d_pooled2);
            break;
        case 7: net.unpool2(); break;
        case 8: net.convolve2_weight_gradient(); break;
        case 9: net.convolve2_input_gradient(w + CONV2_W); break;
        case 10: net.convolve1_weight_gradient(); break;
    }
}

}  // namespace

extern "C" int tile() { return Net::TILE; }

// Runs a layer `times` times, after a whole pass over the first tile of `pixels` [64, 28, 28].
extern "C" void run(int layer, int64_t times, const float* w, const uint8_t* pixels,
                    const int64_t* labels) {
    auto* net = kept_scratch<Net>();
    const Pass of{w, {pixels, labels, nullptr, nullptr, 64, 1.0 / 255, 0}};
    float loss = 0;
    net->prepare(w);
    net->clear_sums();
    net->load(of.images, 0, Net::TILE);
    net->forward(w);
    net->lose(of.images, 0, Net::TILE, loss);
    net->backward(w);
    for (int64_t i = 0; i < times; ++i) run_layer(layer, *net, of);
}
