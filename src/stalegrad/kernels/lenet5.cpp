// Fused LeNet-5: loss, gradient and evaluation on a CPU, with the batch as the innermost index.
//
// Sixteen images make one tile and one vector register holds one number of all sixteen, so that
// every inner loop is a broadcast weight times a vector and no layer needs a shuffle. The forward
// and backward pass of a tile stays in the second-level cache. Both precisions come from one
// template; float64 exists for the exactness tests.
//
// The network (LeCun et al. 1998, as PyTorch users write it): conv 1->6 5x5 pad 2, ReLU,
// maxpool 2; conv 6->16 5x5, ReLU, maxpool 2; fc 400->120->84->10, ReLU between; mean
// cross-entropy. Weights are one flat array in the order of torch's `parameters()`.
// Ties in a pooling window go to its first maximum and a unit at exactly zero passes no gradient,
// as in PyTorch. Comparisons are written so that a NaN propagates.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "classification.h"

namespace {

constexpr int PIXELS = 28 * 28;
constexpr int PADDED = 32;            // 28 and a border of two on either side
constexpr int SIDE1 = 14, SIDE2 = 5;  // after the first and the second pooling
constexpr int MAPS1 = 6, MAPS2 = 16;  // channels of the two convolutions
constexpr int KERNEL = 25;            // taps of a 5x5 kernel
constexpr int FLAT = MAPS2 * SIDE2 * SIDE2, HIDDEN1 = 120, HIDDEN2 = 84;

// Offsets into the flat weights.
constexpr int CONV1_W = 0, CONV1_B = CONV1_W + MAPS1 * KERNEL;
constexpr int CONV2_W = CONV1_B + MAPS1, CONV2_B = CONV2_W + MAPS2 * MAPS1 * KERNEL;
constexpr int FC1_W = CONV2_B + MAPS2, FC1_B = FC1_W + HIDDEN1 * FLAT;
constexpr int FC2_W = FC1_B + HIDDEN1, FC2_B = FC2_W + HIDDEN2 * HIDDEN1;
constexpr int FC3_W = FC2_B + HIDDEN2, FC3_B = FC3_W + CLASSES * HIDDEN2;
constexpr int PARAMETERS = FC3_B + CLASSES;
static_assert(PARAMETERS == 61706);

template <typename T>
struct Lenet5 {
    using V = Vector<T>;
    using Mask = Index<T>;
    static constexpr int TILE = LANES<T>;  // images
    // Which of the four positions of a pooling window won (0-3), or -1 where the unit is dead.
    typedef int8_t Winner __attribute__((vector_size(TILE)));

    static Mask all(int value) { return Mask{} + value; }
    static Mask widen(Winner w) { return __builtin_convertvector(w, Mask); }

    static constexpr int RANDOM_BYTES = 0;  // that a sample takes

    // ---- scratch: one tile's activations and gradients, and the gradient being summed ----
    V input[PADDED * PADDED];
    V pooled1[MAPS1 * SIDE1 * SIDE1], pooled2[FLAT], hidden1[HIDDEN1], hidden2[HIDDEN2];
    V logits[CLASSES];
    Winner winner1[MAPS1 * SIDE1 * SIDE1], winner2[FLAT];
    V d_pooled1[MAPS1 * SIDE1 * SIDE1], d_pooled2[FLAT], d_hidden1[HIDDEN1], d_hidden2[HIDDEN2];
    V d_logits[CLASSES];
    V d_conv2[10 * MAPS2 * 10];  // gradient before the second pooling: [row][channel][column]
    // Sums over tiles, lane by lane; lanes are added together once, at the end of a batch.
    V sum_conv1[MAPS1 * KERNEL], sum_conv1_b[MAPS1];
    V sum_conv2[MAPS2 * MAPS1 * KERNEL], sum_conv2_b[MAPS2];
    V sum_fc1_b[HIDDEN1], sum_fc2_b[HIDDEN2], sum_fc3_b[CLASSES];
    // Row lengths are padded to whole vectors.
    T sum_fc1[HIDDEN1 * round_up(FLAT, TILE)];
    T sum_fc2[HIDDEN2 * round_up(HIDDEN1, TILE)];
    T sum_fc3[CLASSES * round_up(HIDDEN2, TILE)];
    T transposed[TILE * round_up(FLAT, TILE)];
    T conv1_taps[KERNEL * MAPS1], conv2_taps[MAPS1 * KERNEL * MAPS2];  // [in][tap][out]

    // ---- layers ----

    // One convolution with the ReLU and the 2x2 pooling behind it, BLOCK output channels at a time.
    template <int IN, int OUT, int BLOCK, int SIDE>
    static void convolve_pool(const V* x, const T* taps, const T* bias, V* out, Winner* winner) {
        constexpr int Q = (SIDE - 4) / 2;
        for (int qy = 0; qy < Q; ++qy)
            for (int c0 = 0; c0 < OUT; c0 += BLOCK)
                for (int qx = 0; qx < Q; ++qx) {
                    V acc[4][BLOCK];
                    unroll<BLOCK>([&](auto c) INLINE {
                        unroll<4>([&](auto p) INLINE { acc[p][c] = V{} + bias[c0 + c]; });
                    });
                    for (int in = 0; in < IN; ++in) {
                        const V* patch = x + (in * SIDE + 2 * qy) * SIDE + 2 * qx;
                        const T* w = taps + in * KERNEL * OUT + c0;
                        for (int ky = 0; ky < 5; ++ky, patch += SIDE)
                            unroll<5>([&](auto kx) INLINE {
                                const V x0 = patch[kx], x1 = patch[kx + 1];
                                const V x2 = patch[SIDE + kx], x3 = patch[SIDE + kx + 1];
                                unroll<BLOCK>([&](auto c) INLINE {
                                    const T weight = w[(ky * 5 + kx) * OUT + c];
                                    acc[0][c] += x0 * weight;
                                    acc[1][c] += x1 * weight;
                                    acc[2][c] += x2 * weight;
                                    acc[3][c] += x3 * weight;
                                });
                            });
                    }
                    unroll<BLOCK>([&](auto c) INLINE {
                        V best = acc[0][c];
                        Mask which = {};
                        unroll<3>([&](auto p) INLINE {
                            const V other = acc[p + 1][c];
                            const Mask wins = (other > best) | (other != other);
                            best = wins ? other : best;
                            which = wins ? all(p + 1) : which;
                        });
                        const Mask dead = best <= V{};
                        const int at = ((c0 + c) * Q + qy) * Q + qx;
                        out[at] = dead ? V{} : best;
                        winner[at] = __builtin_convertvector(dead ? all(-1) : which, Winner);
                    });
                }
    }

    // sums[25] += gradient of one (input map, output map) pair's kernel, from the pooled gradient.
    template <int SIDE>
    static void convolve_weight_gradient(const V* x, const V* d_pooled, const Winner* winner,
                                         V* sums) {
        constexpr int Q = (SIDE - 4) / 2;
        V acc[KERNEL];
        unroll<KERNEL>([&](auto k) INLINE { acc[k] = V{}; });
        for (int qy = 0; qy < Q; ++qy)
            for (int qx = 0; qx < Q; ++qx) {
                const V d = d_pooled[qy * Q + qx];
                const Mask won = widen(winner[qy * Q + qx]);
                V at[4];
                unroll<4>([&](auto p) INLINE { at[p] = won == all(p) ? d : V{}; });
                const V* patch = x + 2 * qy * SIDE + 2 * qx;
                unroll<36>([&](auto i) INLINE {
                    constexpr int dy = i / 6, dx = i % 6;
                    const V pixel = patch[dy * SIDE + dx];
                    unroll<4>([&](auto p) INLINE {
                        constexpr int ky = dy - p / 2, kx = dx - p % 2;
                        if constexpr (ky >= 0 && ky < 5 && kx >= 0 && kx < 5)
                            acc[ky * 5 + kx] += pixel * at[p];
                    });
                });
            }
        unroll<KERNEL>([&](auto k) INLINE { sums[k] += acc[k]; });
    }

    // Gradient with respect to the first pooled layer: a row of 14 stays in registers.
    void convolve2_input_gradient(const T* w) {
        for (int y = 0; y < SIDE1; ++y)
            for (int in = 0; in < MAPS1; ++in) {
                V acc[SIDE1];
                unroll<SIDE1>([&](auto x) INLINE { acc[x] = V{}; });
                const int first = y > 9 ? y - 9 : 0, last = y < 4 ? y : 4;
                for (int ky = first; ky <= last; ++ky)
                    for (int out = 0; out < MAPS2; ++out) {
                        const V* d = d_conv2 + ((y - ky) * MAPS2 + out) * 10;
                        const T* tap = w + ((out * MAPS1 + in) * 5 + ky) * 5;
                        const T w0 = tap[0], w1 = tap[1], w2 = tap[2], w3 = tap[3], w4 = tap[4];
                        unroll<10>([&](auto x) INLINE {
                            const V dx = d[x];
                            acc[x] += dx * w0;
                            acc[x + 1] += dx * w1;
                            acc[x + 2] += dx * w2;
                            acc[x + 3] += dx * w3;
                            acc[x + 4] += dx * w4;
                        });
                    }
                const int row = (in * SIDE1 + y) * SIDE1;
                unroll<SIDE1>([&](auto x) INLINE {
                    const Mask dead = widen(winner1[row + x]) < Mask{};
                    d_pooled1[row + x] = dead ? V{} : acc[x];
                });
            }
    }

    template <int IN, int OUT, int BLOCK, bool RELU>
    static void connect(const V* x, const T* w, const T* bias, V* out) {
        static_assert(OUT % BLOCK == 0);
        for (int o = 0; o < OUT; o += BLOCK) {
            V acc[BLOCK];
            unroll<BLOCK>([&](auto b) INLINE { acc[b] = V{} + bias[o + b]; });
            for (int i = 0; i < IN; ++i) {
                const V xi = x[i];
                unroll<BLOCK>([&](auto b) INLINE { acc[b] += xi * w[(o + b) * IN + i]; });
            }
            unroll<BLOCK>([&](auto b) INLINE {
                out[o + b] = RELU ? (acc[b] <= V{} ? V{} : acc[b]) : acc[b];
            });
        }
    }

    // d_in = W^T d_out, zero where the unit below is dead.
    template <int IN, int OUT, int BLOCK>
    static void connect_input_gradient(const V* d_out, const T* w, const V* unit, V* d_in) {
        static_assert(IN % BLOCK == 0);
        for (int i = 0; i < IN; i += BLOCK) {
            V acc[BLOCK];
            unroll<BLOCK>([&](auto b) INLINE { acc[b] = V{}; });
            for (int o = 0; o < OUT; ++o) {
                const V d = d_out[o];
                unroll<BLOCK>([&](auto b) INLINE { acc[b] += d * w[o * IN + i + b]; });
            }
            unroll<BLOCK>([&](auto b) INLINE {
                d_in[i + b] = unit[i + b] == V{} ? V{} : acc[b];
            });
        }
    }

    // sums += d_out x^T summed over the sixteen lanes, as rank-16 updates of ROWS x COLS vectors.
    template <int IN, int OUT, int ROWS, int COLS>
    void connect_weight_gradient(const V* x, const V* d_out, T* sums) {
        constexpr int WIDTH = round_up(IN, TILE);
        static_assert(OUT % ROWS == 0);
        for (int i = 0; i < IN; ++i)
            for (int lane = 0; lane < TILE; ++lane) transposed[lane * WIDTH + i] = x[i][lane];
        for (int lane = 0; lane < TILE; ++lane)
            for (int i = IN; i < WIDTH; ++i) transposed[lane * WIDTH + i] = 0;
        for (int o = 0; o < OUT; o += ROWS)
            for (int i = 0; i < WIDTH; i += COLS * TILE) {
                V acc[ROWS][COLS];
                unroll<ROWS>([&](auto r) INLINE {
                    unroll<COLS>([&](auto c) INLINE { acc[r][c] = V{}; });
                });
                for (int lane = 0; lane < TILE; ++lane) {
                    V xs[COLS];
                    unroll<COLS>([&](auto c) INLINE {
                        xs[c] = *(const V*)(transposed + lane * WIDTH + i + c * TILE);
                    });
                    unroll<ROWS>([&](auto r) INLINE {
                        const T d = ((const T*)(d_out + o + r))[lane];
                        unroll<COLS>([&](auto c) INLINE { acc[r][c] += xs[c] * d; });
                    });
                }
                unroll<ROWS>([&](auto r) INLINE {
                    unroll<COLS>([&](auto c) INLINE {
                        *(V*)(sums + (o + r) * WIDTH + i + c * TILE) += acc[r][c];
                    });
                });
            }
    }

    // ---- a tile, forward and backward ----

    void prepare(const T* w) {
        for (int k = 0; k < KERNEL; ++k)
            for (int out = 0; out < MAPS1; ++out)
                conv1_taps[k * MAPS1 + out] = w[CONV1_W + out * KERNEL + k];
        for (int out = 0; out < MAPS2; ++out)
            for (int k = 0; k < MAPS1 * KERNEL; ++k)
                conv2_taps[k * MAPS2 + out] = w[CONV2_W + out * MAPS1 * KERNEL + k];
        std::memset((void*)input, 0, sizeof input);
    }

    // Images from `start` on. Lanes past `count` repeat the last; whoever reads them masks them.
    void load(const Images& of, int64_t start, int count) {
        const T scale = (T)of.scale, shift = (T)of.shift;
        const uint8_t* image[TILE];
        for (int lane = 0; lane < TILE; ++lane)
            image[lane] = of.pixels + of.row(start + std::min(lane, count - 1)) * PIXELS;
        for (int y = 0; y < 28; ++y)
            for (int x = 0; x < 28; ++x) {
                V pixel;
                for (int lane = 0; lane < TILE; ++lane) pixel[lane] = image[lane][y * 28 + x];
                input[(y + 2) * PADDED + x + 2] = pixel * scale + shift;
            }
    }

    void forward(const T* w) {
        convolve_pool<1, MAPS1, 6, PADDED>(input, conv1_taps, w + CONV1_B, pooled1, winner1);
        convolve_pool<MAPS1, MAPS2, 4, SIDE1>(pooled1, conv2_taps, w + CONV2_B, pooled2, winner2);
        connect<FLAT, HIDDEN1, 12, true>(pooled2, w + FC1_W, w + FC1_B, hidden1);
        connect<HIDDEN1, HIDDEN2, 12, true>(hidden1, w + FC2_W, w + FC2_B, hidden2);
        connect<HIDDEN2, CLASSES, 10, false>(hidden2, w + FC3_W, w + FC3_B, logits);
    }

    // The logits [CLASSES] of one lane.
    void copy_logits(int lane, T* z) const {
        for (int c = 0; c < CLASSES; ++c) z[c] = logits[c][lane];
    }

    void backward(const T* w) {
        for (int c = 0; c < CLASSES; ++c) sum_fc3_b[c] += d_logits[c];
        connect_weight_gradient<HIDDEN2, CLASSES, 5, 3>(hidden2, d_logits, sum_fc3);
        connect_input_gradient<HIDDEN2, CLASSES, 12>(d_logits, w + FC3_W, hidden2, d_hidden2);
        for (int i = 0; i < HIDDEN2; ++i) sum_fc2_b[i] += d_hidden2[i];
        connect_weight_gradient<HIDDEN1, HIDDEN2, 4, 4>(hidden1, d_hidden2, sum_fc2);
        connect_input_gradient<HIDDEN1, HIDDEN2, 12>(d_hidden2, w + FC2_W, hidden1, d_hidden1);
        for (int i = 0; i < HIDDEN1; ++i) sum_fc1_b[i] += d_hidden1[i];
        connect_weight_gradient<FLAT, HIDDEN1, 4, 5>(pooled2, d_hidden1, sum_fc1);
        connect_input_gradient<FLAT, HIDDEN1, 16>(d_hidden1, w + FC1_W, pooled2, d_pooled2);

        constexpr int Q2 = SIDE2 * SIDE2, Q1 = SIDE1 * SIDE1;
        for (int out = 0; out < MAPS2; ++out)
            for (int q = 0; q < Q2; ++q) {
                const V d = d_pooled2[out * Q2 + q];
                const Mask won = widen(winner2[out * Q2 + q]);
                sum_conv2_b[out] += d;
                unroll<4>([&](auto p) INLINE {
                    const int y = q / SIDE2 * 2 + p / 2, x = q % SIDE2 * 2 + p % 2;
                    d_conv2[(y * MAPS2 + out) * 10 + x] = won == all(p) ? d : V{};
                });
            }
        for (int in = 0; in < MAPS1; ++in)
            for (int out = 0; out < MAPS2; ++out)
                convolve_weight_gradient<SIDE1>(pooled1 + in * Q1, d_pooled2 + out * Q2,
                                                winner2 + out * Q2,
                                                sum_conv2 + (out * MAPS1 + in) * KERNEL);
        convolve2_input_gradient(w + CONV2_W);
        for (int out = 0; out < MAPS1; ++out) {
            for (int q = 0; q < Q1; ++q) sum_conv1_b[out] += d_pooled1[out * Q1 + q];
            convolve_weight_gradient<PADDED>(input, d_pooled1 + out * Q1, winner1 + out * Q1,
                                             sum_conv1 + out * KERNEL);
        }
    }

    // ---- a batch ----

    void clear_sums() {
        auto* first = (char*)sum_conv1;
        std::memset((void*)first, 0, (char*)transposed - first);
    }

    static void add_lanes(const V* sums, int count, T* out) {
        for (int i = 0; i < count; ++i) {
            T total = 0;
            for (int lane = 0; lane < TILE; ++lane) total += sums[i][lane];
            out[i] = total;
        }
    }

    template <int IN, int OUT>
    static void copy_rows(const T* sums, T* out) {
        for (int o = 0; o < OUT; ++o)
            std::memcpy(out + o * IN, sums + o * round_up(IN, TILE), IN * sizeof(T));
    }

    T gradient(const T* w, const Images& of, T* out) {
        T loss = 0;
        prepare(w);
        clear_sums();
        for (int64_t start = 0; start < of.count; start += TILE) {
            const int count = (int)std::min<int64_t>(TILE, of.count - start);
            load(of, start, count);
            forward(w);
            for (int lane = 0; lane < TILE; ++lane) {
                T z[CLASSES], p[CLASSES] = {};
                if (lane < count) {
                    const int64_t label = of.labels[of.row(start + lane)];
                    copy_logits(lane, z);
                    loss += cross_entropy(z, label, p);
                    p[label] -= 1;
                }
                for (int c = 0; c < CLASSES; ++c) d_logits[c][lane] = p[c] / of.count;
            }
            backward(w);
        }
        add_lanes(sum_conv1, MAPS1 * KERNEL, out + CONV1_W);
        add_lanes(sum_conv1_b, MAPS1, out + CONV1_B);
        add_lanes(sum_conv2, MAPS2 * MAPS1 * KERNEL, out + CONV2_W);
        add_lanes(sum_conv2_b, MAPS2, out + CONV2_B);
        copy_rows<FLAT, HIDDEN1>(sum_fc1, out + FC1_W);
        add_lanes(sum_fc1_b, HIDDEN1, out + FC1_B);
        copy_rows<HIDDEN1, HIDDEN2>(sum_fc2, out + FC2_W);
        add_lanes(sum_fc2_b, HIDDEN2, out + FC2_B);
        copy_rows<HIDDEN2, CLASSES>(sum_fc3, out + FC3_W);
        add_lanes(sum_fc3_b, CLASSES, out + FC3_B);
        return loss / of.count;
    }

    void predict(const T* w, const Images& of, double* losses, int64_t* classes) {
        prepare(w);
        for (int64_t start = 0; start < of.count; start += TILE) {
            const int here = (int)std::min<int64_t>(TILE, of.count - start);
            load(of, start, here);
            forward(w);
            for (int lane = 0; lane < here; ++lane) {
                T z[CLASSES], p[CLASSES];
                copy_logits(lane, z);
                losses[start + lane] = cross_entropy(z, of.labels[of.row(start + lane)], p);
                classes[start + lane] = predicted_class(z);
            }
        }
    }
};

}  // namespace

EXPORT_NETWORK(lenet5, Lenet5, float, float32)
EXPORT_NETWORK(lenet5, Lenet5, double, float64)
