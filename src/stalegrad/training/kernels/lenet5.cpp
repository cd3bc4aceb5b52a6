// Fused LeNet-5: loss, gradient and evaluation on a CPU, with the batch as the innermost index.
//
// A tile is as many images as a vector register has lanes, and a register holds one number of all of
// them. Every inner loop is a broadcast weight times a vector, and no layer needs a shuffle. The
// forward and backward pass of a tile stays in the second-level cache. Both precisions come from one
// template; float64 exists for the exactness tests.
//
// The order in which a sum is taken does not depend on the blocking, only on the number of lanes:
// builds for processors of one width give the same bits, up to how the compiler contracts.
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
constexpr int ACROSS2 = 2 * SIDE2;    // in front of the second pooling
constexpr int FLAT = MAPS2 * SIDE2 * SIDE2, HIDDEN1 = 120, HIDDEN2 = 84;

// Blocking: how many sums of a layer an inner loop keeps in registers. At least eight keep two
// multiply-add units busy, each of which takes four cycles; all of them, a vector of what they are
// multiplied with and a weight must fit into the registers.
constexpr bool MANY = REGISTERS >= 32;
constexpr int CONV1_MAPS = MANY ? 3 : 2;  // by the four positions of a pooling window
constexpr int CONV2_MAPS = MANY ? 4 : 2;
constexpr int KERNELS = 2;                // by the five taps of a row
constexpr int UNITS = 12, CLASS_UNITS = 10;           // of a connected layer, forward
constexpr int BACK_UNITS = 12, BACK_FLAT = MANY ? 16 : 10;
constexpr int ROWS = 6, CLASS_ROWS = 5, COLUMNS = 2;  // units by vectors of inputs

// Tiles whose gradients are summed one by one. More of them are summed in blocks, so that float32
// does not lose what a tile adds to a sum of many.
constexpr int BLOCK = 64;

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
    template <int N>
    static constexpr int WIDTH = round_up(N, COLUMNS * TILE);  // of a row of N numbers, padded
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
    V d_conv2[ACROSS2 * MAPS2 * ACROSS2];  // gradient before the second pooling: [row][channel][column]
    // Sums over tiles, lane by lane; lanes are added together once, at the end of a batch.
    V sum_conv1[MAPS1 * KERNEL], sum_conv1_b[MAPS1];
    V sum_conv2[MAPS2 * MAPS1 * KERNEL], sum_conv2_b[MAPS2];
    V sum_fc1_b[HIDDEN1], sum_fc2_b[HIDDEN2], sum_fc3_b[CLASSES];
    T sum_fc1[HIDDEN1 * WIDTH<FLAT>];
    T sum_fc2[HIDDEN2 * WIDTH<HIDDEN1>];
    T sum_fc3[CLASSES * WIDTH<HIDDEN2>];
    T transposed[TILE * WIDTH<FLAT>];
    T conv1_taps[KERNEL * MAPS1], conv2_taps[MAPS1 * KERNEL * MAPS2];  // [in][tap][out]

    // ---- layers ----

    // One convolution with the ReLU and the 2x2 pooling behind it, N output maps at a time.
    template <int IN, int OUT, int N, int SIDE>
    static void convolve_pool(const V* x, const T* taps, const T* bias, V* out, Winner* winner) {
        constexpr int Q = (SIDE - 4) / 2;
        for (int qy = 0; qy < Q; ++qy)
            for (int c0 = 0; c0 < OUT; c0 += N)
                for (int qx = 0; qx < Q; ++qx) {
                    V acc[4][N];
                    unroll<N>([&](auto c) INLINE {
                        unroll<4>([&](auto p) INLINE { acc[p][c] = V{} + bias[c0 + c]; });
                    });
                    for (int in = 0; in < IN; ++in) {
                        const V* patch = x + (in * SIDE + 2 * qy) * SIDE + 2 * qx;
                        const T* w = taps + in * KERNEL * OUT + c0;
                        for (int ky = 0; ky < 5; ++ky, patch += SIDE)
                            unroll<5>([&](auto kx) INLINE {
                                V pixels[4];
                                unroll<4>([&](auto p) INLINE {
                                    pixels[p] = patch[p / 2 * SIDE + p % 2 + kx];
                                    keep(pixels[p]);
                                });
                                unroll<N>([&](auto c) INLINE {
                                    const T weight = w[(ky * 5 + kx) * OUT + c];
                                    unroll<4>([&](auto p) INLINE { acc[p][c] += pixels[p] * weight; });
                                });
                                forget_loads();
                            });
                    }
                    unroll<N>([&](auto c) INLINE {
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

    // at[p] = the gradient of position p of a pooling window: d where it won, else zero.
    static void unpool(const V& d, const Winner& winner, V (&at)[4]) {
        const Mask won = widen(winner);
        unroll<4>([&](auto p) INLINE { at[p] = won == all(p) ? d : V{}; });
    }

    // part[KERNELS][25] += gradients of the kernels from one input map to output maps next to each
    // other. d: the gradient in front of the pooling, 2 WINDOWS_DOWN x 2 WINDOWS_ACROSS numbers of
    // each output map, `row` numbers from one row to the next and `map` from one map to the next.
    template <int SIDE, int WINDOWS_DOWN, int WINDOWS_ACROSS>
    static void correlate(const V* x, const V* d, int row, int map, V* part) {
        for (int ky = 0; ky < 5; ++ky, part += 5) {
            V acc[KERNELS][5];
            unroll<KERNELS * 5>([&](auto i) INLINE { acc[i / 5][i % 5] = part[i / 5 * KERNEL + i % 5]; });
            for (int qy = 0; qy < WINDOWS_DOWN; ++qy)
                for (int qx = 0; qx < WINDOWS_ACROSS; ++qx)
                    unroll<2>([&](auto y) INLINE {
                        const V* pixels = x + (2 * qy + y + ky) * SIDE + 2 * qx;
                        const V* there = d + (2 * qy + y) * row + 2 * qx;
                        unroll<6>([&](auto i) INLINE {
                            const V pixel = pixels[i];
                            unroll<2 * KERNELS>([&](auto j) INLINE {
                                constexpr int k = j / 2, column = j % 2, kx = i - column;
                                if constexpr (kx >= 0 && kx < 5)
                                    acc[k][kx] += pixel * there[k * map + column];
                            });
                        });
                        forget_loads();
                    });
            unroll<KERNELS * 5>([&](auto i) INLINE { part[i / 5 * KERNEL + i % 5] = acc[i / 5][i % 5]; });
        }
    }

    static void add(const V* part, V* sums) {
        for (int tap = 0; tap < KERNEL; ++tap) sums[tap] += part[tap];
    }

    void convolve1_weight_gradient() {
        constexpr int Q = SIDE1, ACROSS = 2 * Q;
        for (int out = 0; out < MAPS1; out += KERNELS) {
            V part[KERNELS * KERNEL]{};
            for (int qy = 0; qy < Q; ++qy) {
                V d[KERNELS][2][ACROSS];
                for (int k = 0; k < KERNELS; ++k)
                    for (int qx = 0; qx < Q; ++qx) {
                        const int q = ((out + k) * Q + qy) * Q + qx;
                        V at[4];
                        unpool(d_pooled1[q], winner1[q], at);
                        unroll<4>([&](auto p) INLINE { d[k][p / 2][2 * qx + p % 2] = at[p]; });
                    }
                correlate<PADDED, 1, Q>(input + 2 * qy * PADDED, d[0][0], ACROSS, 2 * ACROSS, part);
            }
            for (int k = 0; k < KERNELS; ++k)
                add(part + k * KERNEL, sum_conv1 + (out + k) * KERNEL);
        }
    }

    // The gradient in front of the second pooling.
    void unpool2() {
        for (int out = 0; out < MAPS2; ++out)
            for (int q = 0; q < SIDE2 * SIDE2; ++q) {
                V at[4];
                unpool(d_pooled2[out * SIDE2 * SIDE2 + q], winner2[out * SIDE2 * SIDE2 + q], at);
                unroll<4>([&](auto p) INLINE {
                    const int y = q / SIDE2 * 2 + p / 2, x = q % SIDE2 * 2 + p % 2;
                    d_conv2[(y * MAPS2 + out) * ACROSS2 + x] = at[p];
                });
            }
    }

    void convolve2_weight_gradient() {
        for (int in = 0; in < MAPS1; ++in)
            for (int out = 0; out < MAPS2; out += KERNELS) {
                V part[KERNELS * KERNEL]{};
                correlate<SIDE1, SIDE2, SIDE2>(pooled1 + in * SIDE1 * SIDE1, d_conv2 + out * ACROSS2,
                                               MAPS2 * ACROSS2, ACROSS2, part);
                for (int k = 0; k < KERNELS; ++k)
                    add(part + k * KERNEL, sum_conv2 + ((out + k) * MAPS1 + in) * KERNEL);
            }
    }

    // The gradient with respect to the first pooled layer: a row of 14 stays in registers.
    void convolve2_input_gradient(const T* w) {
        for (int y = 0; y < SIDE1; ++y)
            for (int in = 0; in < MAPS1; ++in) {
                V acc[SIDE1];
                unroll<SIDE1>([&](auto x) INLINE { acc[x] = V{}; });
                const int first = y > 9 ? y - 9 : 0, last = y < 4 ? y : 4;
                for (int ky = first; ky <= last; ++ky)
                    for (int out = 0; out < MAPS2; ++out) {
                        const V* d = d_conv2 + ((y - ky) * MAPS2 + out) * ACROSS2;
                        const T* taps = w + ((out * MAPS1 + in) * 5 + ky) * 5;
                        unroll<5>([&](auto i) INLINE {
                            constexpr int kx = 4 - i;
                            const T tap = taps[kx];
                            unroll<ACROSS2>([&](auto x) INLINE { acc[x + kx] += d[x] * tap; });
                            forget_loads();
                        });
                    }
                unroll<SIDE1>([&](auto x) INLINE {
                    const int at = (in * SIDE1 + y) * SIDE1 + x;
                    const Mask dead = widen(winner1[at]) < Mask{};
                    d_pooled1[at] = dead ? V{} : acc[x];
                });
            }
    }

    template <int IN, int OUT, int N, bool RELU>
    static void connect(const V* x, const T* w, const T* bias, V* out) {
        static_assert(OUT % N == 0);
        for (int o = 0; o < OUT; o += N) {
            V acc[N];
            unroll<N>([&](auto b) INLINE { acc[b] = V{} + bias[o + b]; });
            for (int i = 0; i < IN; ++i) {
                const V xi = x[i];
                unroll<N>([&](auto b) INLINE { acc[b] += xi * w[(o + b) * IN + i]; });
            }
            unroll<N>([&](auto b) INLINE {
                out[o + b] = RELU ? (acc[b] <= V{} ? V{} : acc[b]) : acc[b];
            });
        }
    }

    // d_in = W^T d_out, zero where the unit below is dead.
    template <int IN, int OUT, int N>
    static void connect_input_gradient(const V* d_out, const T* w, const V* unit, V* d_in) {
        static_assert(IN % N == 0);
        for (int i = 0; i < IN; i += N) {
            V acc[N];
            unroll<N>([&](auto b) INLINE { acc[b] = V{}; });
            for (int o = 0; o < OUT; ++o) {
                const V d = d_out[o];
                unroll<N>([&](auto b) INLINE { acc[b] += d * w[o * IN + i + b]; });
            }
            unroll<N>([&](auto b) INLINE {
                d_in[i + b] = unit[i + b] == V{} ? V{} : acc[b];
            });
        }
    }

    // sums += d_out x^T summed over the lanes, N units at a time.
    template <int IN, int OUT, int N>
    void connect_weight_gradient(const V* x, const V* d_out, T* sums) {
        static_assert(OUT % N == 0);
        for (int lane = 0; lane < TILE; ++lane) {
            T* row = transposed + lane * WIDTH<IN>;
            for (int i = 0; i < IN; ++i) row[i] = x[i][lane];
            std::fill(row + IN, row + WIDTH<IN>, T{});
        }
        for (int o = 0; o < OUT; o += N)
            for (int i = 0; i < WIDTH<IN>; i += COLUMNS * TILE) {
                V acc[N][COLUMNS];
                unroll<N * COLUMNS>([&](auto j) INLINE { acc[j / COLUMNS][j % COLUMNS] = V{}; });
                for (int lane = 0; lane < TILE; ++lane) {
                    V xs[COLUMNS];
                    unroll<COLUMNS>([&](auto c) INLINE {
                        xs[c] = ::load(transposed + lane * WIDTH<IN> + i + c * TILE);
                    });
                    unroll<N>([&](auto r) INLINE {
                        const T d = ((const T*)(d_out + o + r))[lane];
                        unroll<COLUMNS>([&](auto c) INLINE { acc[r][c] += xs[c] * d; });
                    });
                }
                unroll<N * COLUMNS>([&](auto j) INLINE {
                    T* there = sums + (o + j / COLUMNS) * WIDTH<IN> + i + j % COLUMNS * TILE;
                    store(there, ::load(there) + acc[j / COLUMNS][j % COLUMNS]);
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
        convolve_pool<1, MAPS1, CONV1_MAPS, PADDED>(input, conv1_taps, w + CONV1_B, pooled1, winner1);
        convolve_pool<MAPS1, MAPS2, CONV2_MAPS, SIDE1>(pooled1, conv2_taps, w + CONV2_B, pooled2, winner2);
        connect<FLAT, HIDDEN1, UNITS, true>(pooled2, w + FC1_W, w + FC1_B, hidden1);
        connect<HIDDEN1, HIDDEN2, UNITS, true>(hidden1, w + FC2_W, w + FC2_B, hidden2);
        connect<HIDDEN2, CLASSES, CLASS_UNITS, false>(hidden2, w + FC3_W, w + FC3_B, logits);
    }

    // The logits [CLASSES] of one lane.
    void copy_logits(int lane, T* z) const {
        for (int c = 0; c < CLASSES; ++c) z[c] = logits[c][lane];
    }

    void backward(const T* w) {
        for (int c = 0; c < CLASSES; ++c) sum_fc3_b[c] += d_logits[c];
        connect_weight_gradient<HIDDEN2, CLASSES, CLASS_ROWS>(hidden2, d_logits, sum_fc3);
        connect_input_gradient<HIDDEN2, CLASSES, BACK_UNITS>(d_logits, w + FC3_W, hidden2, d_hidden2);
        for (int i = 0; i < HIDDEN2; ++i) sum_fc2_b[i] += d_hidden2[i];
        connect_weight_gradient<HIDDEN1, HIDDEN2, ROWS>(hidden1, d_hidden2, sum_fc2);
        connect_input_gradient<HIDDEN1, HIDDEN2, BACK_UNITS>(d_hidden2, w + FC2_W, hidden1, d_hidden1);
        for (int i = 0; i < HIDDEN1; ++i) sum_fc1_b[i] += d_hidden1[i];
        connect_weight_gradient<FLAT, HIDDEN1, ROWS>(pooled2, d_hidden1, sum_fc1);
        connect_input_gradient<FLAT, HIDDEN1, BACK_FLAT>(d_hidden1, w + FC1_W, pooled2, d_pooled2);

        constexpr int Q1 = SIDE1 * SIDE1, Q2 = SIDE2 * SIDE2;
        for (int i = 0; i < FLAT; ++i) sum_conv2_b[i / Q2] += d_pooled2[i];
        unpool2();
        convolve2_weight_gradient();
        convolve2_input_gradient(w + CONV2_W);
        for (int i = 0; i < MAPS1 * Q1; ++i) sum_conv1_b[i / Q1] += d_pooled1[i];
        convolve1_weight_gradient();
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
            out[i] += total;
        }
    }

    template <int IN, int OUT>
    static void add_rows(const T* sums, T* out) {
        for (int o = 0; o < OUT; ++o)
            for (int i = 0; i < IN; ++i) out[o * IN + i] += sums[o * WIDTH<IN> + i];
    }

    // out += the sums of a block, which start anew.
    void add_sums(T* out) {
        add_lanes(sum_conv1, MAPS1 * KERNEL, out + CONV1_W);
        add_lanes(sum_conv1_b, MAPS1, out + CONV1_B);
        add_lanes(sum_conv2, MAPS2 * MAPS1 * KERNEL, out + CONV2_W);
        add_lanes(sum_conv2_b, MAPS2, out + CONV2_B);
        add_rows<FLAT, HIDDEN1>(sum_fc1, out + FC1_W);
        add_lanes(sum_fc1_b, HIDDEN1, out + FC1_B);
        add_rows<HIDDEN1, HIDDEN2>(sum_fc2, out + FC2_W);
        add_lanes(sum_fc2_b, HIDDEN2, out + FC2_B);
        add_rows<HIDDEN2, CLASSES>(sum_fc3, out + FC3_W);
        add_lanes(sum_fc3_b, CLASSES, out + FC3_B);
        clear_sums();
    }

    // d_logits = the gradient of the mean loss of a tile's `count` images, whose losses `loss` receives.
    void lose(const Images& of, int64_t start, int count, T& loss) {
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
    }

    T gradient(const T* w, const Images& of, T* out) {
        T loss = 0;
        prepare(w);
        std::fill_n(out, PARAMETERS, T{});
        clear_sums();
        for (int64_t start = 0, tiles = 0; start < of.count; start += TILE) {
            const int count = (int)std::min<int64_t>(TILE, of.count - start);
            load(of, start, count);
            forward(w);
            lose(of, start, count, loss);
            backward(w);
            if (++tiles % BLOCK == 0 || start + TILE >= of.count) add_sums(out);
        }
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
