// Fused larger CNN of Lamour et al. 2023: loss, gradient and evaluation on a CPU.
//
// The network: conv 1->32 3x3, ReLU; conv 32->64 3x3, maxpool 2, dropout 1/4; fc 9216->128, ReLU,
// dropout 1/2; fc 128->10; mean cross-entropy. Weights are one flat array in the order of torch's
// `parameters()`.
//
// Convolutions keep the channels of an image innermost, as the lanes of vectors. Forward, the second
// one has a tile of pooling windows by output channels in registers, and pools it there. Backward it
// makes use of what pooling and dropout leave: of four positions one has a gradient, and of these
// three in four. Each is one number times a patch of the input, and times a patch of weights, at a
// place which the forward pass has recorded. The fully connected layer is three matrix products of a
// few images at a time.
//
// Ties in a pooling window go to its first maximum and a unit at exactly zero passes no gradient,
// as in PyTorch. Comparisons are written so that a NaN propagates.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "classification.h"

namespace {

constexpr int IMAGES = 32;  // at once; what they are on their way through the network is kept
constexpr int SIDE = 28, PIXELS = SIDE * SIDE;
constexpr int SIDE1 = SIDE - 2, PLACES = SIDE1 * SIDE1;  // behind the first convolution
constexpr int ACROSS = 12, WINDOWS = ACROSS * ACROSS;    // of the pooling, behind the second
constexpr int MAPS1 = 32, MAPS2 = 64;                    // channels of the two convolutions
constexpr int TAPS = 9;                                  // of a 3x3 kernel
constexpr int PATCH_ROW = 3 * MAPS1, ROW = SIDE1 * MAPS1;  // numbers
constexpr int FLAT = MAPS2 * WINDOWS, HIDDEN = 128;
constexpr int CUT1 = 64, CUT2 = 128;  // bytes below these drop a unit

// Offsets into the flat weights.
constexpr int CONV1_W = 0, CONV1_B = CONV1_W + MAPS1 * TAPS;
constexpr int CONV2_W = CONV1_B + MAPS1, CONV2_B = CONV2_W + MAPS2 * MAPS1 * TAPS;
constexpr int FC1_W = CONV2_B + MAPS2, FC1_B = FC1_W + HIDDEN * FLAT;
constexpr int FC2_W = FC1_B + HIDDEN, FC2_B = FC2_W + CLASSES * HIDDEN;
constexpr int PARAMETERS = FC2_B + CLASSES;
static_assert(PARAMETERS == 1199882);

constexpr bool MANY = REGISTERS >= 32;
constexpr int MOST = REGISTERS - 4;  // sums: the others hold what these are made of

// n, or a half, a quarter, ... of it: as many sums as there are registers for.
constexpr int fitting(int n) { return n <= MOST ? n : fitting(n / 2); }

template <typename T>
struct LargeCnn {
    using V = Vector<T>;
    static constexpr int L = LANES<T>;
    static constexpr int V1 = MAPS1 / L;  // vectors of channels
    static constexpr int RANDOM_BYTES = FLAT + HIDDEN;  // of an image

    // Blocking: sums that an inner loop keeps in registers, at least eight so that two multiply-add
    // units are busy. Second convolution: four positions of pooling windows side by side, by vectors
    // of channels; rows of a patch, in pieces of so many vectors. Fully connected: units by images,
    // images by vectors and units by vectors.
    static constexpr int TILE_WINDOWS = MANY ? 3 : 1, TILE_CHANNELS = 2;
    static constexpr int PATCH = 3 * V1, PIECE = fitting(PATCH);
    static constexpr int PATCH_ROWS = 3 * PATCH <= MOST ? 3 : 1;
    static constexpr int UNITS = MANY ? 8 : 4, TOGETHER = 2;
    static constexpr int BACK_IMAGES = 4, BACK_UNITS = MANY ? 8 : 4, COLUMNS = 3;
    static constexpr int CHANNELS = 8;  // of the flat input at once, to stay in the cache
    static_assert(IMAGES % BACK_IMAGES == 0 && WINDOWS % (COLUMNS * L) == 0);

    // Bands of the second convolution's input that stay in the first-level cache.
    static constexpr int BANDS = 3, BAND = WINDOWS / BANDS;

    // One number of the second convolution's output gradient: where its patch of the input begins.
    struct Spike {
        int32_t at;
        T value;
    };

    // ---- scratch ----

    alignas(BYTES) T taps1[TAPS * MAPS1];                // [tap][channel]
    alignas(BYTES) T taps2[TAPS * MAPS1 * MAPS2];        // [block of out][tap][in][out]
    alignas(BYTES) T back2[MAPS2 * TAPS * MAPS1];        // [out][tap][in]
    alignas(BYTES) T sum1[TAPS * MAPS1], sum1_b[MAPS1];  // gradients, in the order of the taps
    alignas(BYTES) T sum2[MAPS2 * TAPS * MAPS1], sum2_b[MAPS2];
    alignas(BYTES) T pixels[PIXELS];
    alignas(BYTES) T convolved[PLACES * MAPS1];                // [place][channel], behind the ReLU
    alignas(BYTES) T d_convolved[PLACES * MAPS1];
    alignas(BYTES) T pooled_by_place[WINDOWS * MAPS2];         // [window][channel]
    alignas(BYTES) uint8_t winner[IMAGES][WINDOWS * MAPS2];    // which of a window's four
    alignas(BYTES) T pooled[MAPS2][IMAGES][WINDOWS];           // behind the dropout; then its gradient
    Spike spikes[FLAT];
    int spike_counts[BANDS][MAPS2];
    alignas(BYTES) T hidden[IMAGES][HIDDEN], d_hidden[IMAGES][HIDDEN];
    alignas(BYTES) T slope[IMAGES][HIDDEN];                    // of ReLU and dropout behind `hidden`
    alignas(BYTES) T logits[IMAGES][CLASSES], d_logits[IMAGES][CLASSES];
    alignas(BYTES) T some_rows[UNITS][CHANNELS * WINDOWS];     // of the weights, for some units
    alignas(BYTES) T rows_of_channel[HIDDEN][WINDOWS];         // and for a channel of the input

    // ---- parts ----

    template <int CUT>
    static constexpr T SCALE = 1 / (1 - T(CUT) / 256);  // of what is kept

    // What dropout multiplies units by, whose bytes these are, or none in evaluation.
    template <int CUT>
    static V kept(const uint8_t* noise) {
        if (!noise) return V{} + 1;
        typedef uint8_t Bytes __attribute__((vector_size(L)));
        Bytes bytes;
        std::memcpy(&bytes, noise, L);
        return __builtin_convertvector(bytes, V) < T(CUT) ? V{} : V{} + SCALE<CUT>;
    }

    void prepare(const T* w) {
        for (int out = 0; out < MAPS1; ++out)
            for (int k = 0; k < TAPS; ++k) taps1[k * MAPS1 + out] = w[CONV1_W + out * TAPS + k];
        constexpr int BLOCK = TILE_CHANNELS * L;
        for (int out = 0; out < MAPS2; ++out)
            for (int in = 0; in < MAPS1; ++in)
                for (int k = 0; k < TAPS; ++k) {
                    const T weight = w[CONV2_W + (out * MAPS1 + in) * TAPS + k];
                    const int at = k * MAPS1 + in;
                    taps2[(out / BLOCK * TAPS * MAPS1 + at) * BLOCK + out % BLOCK] = weight;
                    back2[out * TAPS * MAPS1 + at] = weight;
                }
    }

    void convolve1(const Images& of, int64_t number, const T* bias) {
        const uint8_t* image = of.pixels + of.row(number) * PIXELS;
        const T scale = (T)of.scale, shift = (T)of.shift;
        for (int i = 0; i < PIXELS; ++i) pixels[i] = image[i] * scale + shift;
        for (int v = 0; v < MAPS1; v += L) {
            V taps[TAPS];
            unroll<TAPS>([&](auto k) INLINE { taps[k] = load(taps1 + k * MAPS1 + v); });
            const V start = load(bias + v);
            for (int y = 0; y < SIDE1; ++y)
                for (int x = 0; x < SIDE1; ++x) {
                    const T* patch = pixels + y * SIDE + x;
                    V sum = start;
                    unroll<TAPS>([&](auto k) INLINE { sum += taps[k] * patch[k / 3 * SIDE + k % 3]; });
                    store(convolved + (y * SIDE1 + x) * MAPS1 + v, sum <= V{} ? V{} : sum);
                }
        }
    }

    // The second convolution and the pooling behind it.
    void convolve2_pool(const T* bias, uint8_t* won) {
        constexpr int W = TILE_WINDOWS, C = TILE_CHANNELS, BLOCK = C * L;
        for (int c0 = 0; c0 < MAPS2; c0 += BLOCK)
            for (int qy = 0; qy < ACROSS; ++qy)
                for (int qx = 0; qx < ACROSS; qx += W) {
                    V sum[2][2 * W][C];  // two rows of positions
                    unroll<C>([&](auto c) INLINE {
                        const V start = load(bias + c0 + c * L);
                        unroll<4 * W>([&](auto p) INLINE { sum[p % 2][p / 2][c] = start; });
                    });
                    const T* patch = convolved + (2 * qy * SIDE1 + 2 * qx) * MAPS1;
                    const T* taps = taps2 + c0 * TAPS * MAPS1;
                    for (int ky = 0; ky < 3; ++ky, patch += ROW)
                        for (int j = 0; j < PATCH_ROW; ++j, taps += BLOCK) {
                            V tap[C];
                            unroll<C>([&](auto c) INLINE { tap[c] = load(taps + c * L); });
                            unroll<4 * W>([&](auto p) INLINE {
                                const T number = patch[p % 2 * ROW + p / 2 * MAPS1 + j];
                                unroll<C>([&](auto c) INLINE { sum[p % 2][p / 2][c] += tap[c] * number; });
                            });
                        }
                    unroll<W * C>([&](auto i) INLINE {
                        constexpr int window = i / C, c = i % C;
                        V best = sum[0][2 * window][c];
                        Index<T> which{};
                        unroll<3>([&](auto p) INLINE {
                            constexpr int at = p + 1;
                            const V other = sum[at / 2][2 * window + at % 2][c];
                            const Index<T> wins = (other > best) | (other != other);
                            best = wins ? other : best;
                            which = wins ? Index<T>{} + at : which;
                        });
                        typedef uint8_t Bytes __attribute__((vector_size(L)));
                        const Bytes bytes = __builtin_convertvector(which, Bytes);
                        const int at = (qy * ACROSS + qx + window) * MAPS2 + c0 + c * L;
                        store(pooled_by_place + at, best);
                        std::memcpy(won + at, &bytes, L);
                    });
                }
    }

    // The flat input of the next layer, behind the dropout.
    void drop_pooled(int image, const uint8_t* noise) {
        for (int c0 = 0; c0 < MAPS2; c0 += L)
            for (int q = 0; q < WINDOWS; q += L) {
                V block[L];
                unroll<L>([&](auto i) INLINE { block[i] = load(pooled_by_place + (q + i) * MAPS2 + c0); });
                transpose<T>(block);
                unroll<L>([&](auto i) INLINE {
                    const int c = c0 + i;
                    const V by = kept<CUT1>(noise ? noise + c * WINDOWS + q : nullptr);
                    store(pooled[c][image] + q, block[i] * by);
                });
            }
    }

    // Images past `count` are those of before; nobody reads what becomes of them.
    void connect1(const T* w, const T* bias, int count) {
        for (int b = 0; b < count; ++b) std::copy_n(bias, HIDDEN, hidden[b]);
        for (int c0 = 0; c0 < MAPS2; c0 += CHANNELS)
            for (int u = 0; u < HIDDEN; u += UNITS) {
                // Side by side and on lines of the cache, which the weights of a run need not be.
                for (int j = 0; j < UNITS; ++j)
                    std::copy_n(w + (u + j) * FLAT + c0 * WINDOWS, CHANNELS * WINDOWS, some_rows[j]);
                for (int b = 0; b < count; b += TOGETHER) {
                    V sums[TOGETHER][UNITS]{};
                    for (int c = 0; c < CHANNELS; ++c)
                        for (int q = 0; q < WINDOWS; q += L) {
                            V x[TOGETHER];
                            unroll<TOGETHER>([&](auto i) INLINE { x[i] = load(pooled[c0 + c][b + i] + q); });
                            unroll<UNITS>([&](auto j) INLINE {
                                const V weights = load(some_rows[j] + c * WINDOWS + q);
                                unroll<TOGETHER>([&](auto i) INLINE { sums[i][j] += x[i] * weights; });
                            });
                        }
                    unroll<TOGETHER>([&](auto i) INLINE {
                        unroll<UNITS>([&](auto j) INLINE { hidden[b + i][u + j] += sum<T>(sums[i][j]); });
                    });
                }
            }
    }

    void connect2(int image, const T* w, const T* bias, const uint8_t* noise) {
        T *h = hidden[image], *s = slope[image];
        for (int u = 0; u < HIDDEN; u += L) {
            const V unit = load(h + u), by = kept<CUT2>(noise ? noise + u : nullptr);
            store(h + u, unit <= V{} ? V{} : unit * by);
            store(s + u, unit <= V{} ? V{} : by);
        }
        for (int c = 0; c < CLASSES; ++c) {
            V total{};
            for (int u = 0; u < HIDDEN; u += L) total += load(h + u) * load(w + c * HIDDEN + u);
            logits[image][c] = sum<T>(total) + bias[c];
        }
    }

    // The random bytes of an image from the `at`-th on, or null where nothing is dropped.
    static const uint8_t* noise(const Images& of, int64_t number, int at = 0) {
        return of.noise ? of.noise + number * RANDOM_BYTES + at : nullptr;
    }

    // Of images from `start` on.
    void forward(const T* w, const Images& of, int64_t start, int count) {
        for (int b = 0; b < count; ++b) {
            convolve1(of, start + b, w + CONV1_B);
            convolve2_pool(w + CONV2_B, winner[b]);
            drop_pooled(b, noise(of, start + b));
        }
        connect1(w + FC1_W, w + FC1_B, count);
        for (int b = 0; b < count; ++b)
            connect2(b, w + FC2_W, w + FC2_B, noise(of, start + b, FLAT));
    }

    // ---- backward: what is given to `out` is added to what is there, unless that is `empty` ----

    void connect2_gradient(int count, const T* w, T* out_w, T* out_b) {
        for (int b = 0; b < count; ++b) {
            const T *d = d_logits[b], *h = hidden[b];
            for (int u = 0; u < HIDDEN; u += L) {
                V total{};
                const V unit = load(h + u);
                for (int c = 0; c < CLASSES; ++c) {
                    total += load(w + c * HIDDEN + u) * d[c];
                    T* there = out_w + c * HIDDEN + u;
                    store(there, load(there) + unit * d[c]);
                }
                store(d_hidden[b] + u, total * load(slope[b] + u));
            }
            for (int c = 0; c < CLASSES; ++c) out_b[c] += d[c];
        }
    }

    // Afterwards `pooled` holds the gradient with respect to it; past `count`, something nobody reads.
    void connect1_gradient(int count, const T* w, T* out_w, T* out_b, bool empty) {
        for (int b = 0; b < count; ++b)
            for (int u = 0; u < HIDDEN; ++u) out_b[u] += d_hidden[b][u];
        for (int c = 0; c < MAPS2; ++c) {
            for (int u = 0; u < HIDDEN; ++u)
                std::copy_n(w + u * FLAT + c * WINDOWS, WINDOWS, rows_of_channel[u]);
            for (int u = 0; u < HIDDEN; u += BACK_UNITS)
                for (int q = 0; q < WINDOWS; q += COLUMNS * L) {
                    const int at = u * FLAT + c * WINDOWS + q;
                    expect(w + at + (c + 1 < MAPS2 ? WINDOWS : 0));  // of the next channel
                    connect1_weight_gradient(count, pooled[c][0] + q, u, out_w + at, empty);
                }
            for (int q = 0; q < WINDOWS; q += COLUMNS * L)
                for (int b = 0; b < count; b += BACK_IMAGES) connect1_input_gradient(c, b, q);
        }
    }

    // Fetches a tile of weights, or of their gradient, into the cache.
    INLINE static void expect(const T* tile) {
        unroll<BACK_UNITS * COLUMNS>([&](auto i) INLINE {
            __builtin_prefetch(tile + i / COLUMNS * FLAT + i % COLUMNS * L);
        });
    }

    void connect1_weight_gradient(int count, const T* x, int u, T* out, bool empty) const {
        expect(out);
        V sums[BACK_UNITS][COLUMNS]{};
        for (int b = 0; b < count; ++b, x += WINDOWS) {
            V some[COLUMNS];
            unroll<COLUMNS>([&](auto i) INLINE { some[i] = load(x + i * L); });
            unroll<BACK_UNITS>([&](auto j) INLINE {
                const T d = d_hidden[b][u + j];
                unroll<COLUMNS>([&](auto i) INLINE { sums[j][i] += some[i] * d; });
            });
        }
        unroll<BACK_UNITS>([&](auto j) INLINE {
            unroll<COLUMNS>([&](auto i) INLINE {
                T* there = out + j * FLAT + i * L;
                store(there, empty ? sums[j][i] : load(there) + sums[j][i]);
            });
        });
    }

    void connect1_input_gradient(int c, int b, int q) {
        V sums[BACK_IMAGES][COLUMNS]{};
        for (int u = 0; u < HIDDEN; ++u) {
            V weights[COLUMNS];
            unroll<COLUMNS>([&](auto i) INLINE { weights[i] = load(rows_of_channel[u] + q + i * L); });
            unroll<BACK_IMAGES>([&](auto j) INLINE {
                const T d = d_hidden[b + j][u];
                unroll<COLUMNS>([&](auto i) INLINE { sums[j][i] += weights[i] * d; });
            });
        }
        unroll<BACK_IMAGES>([&](auto j) INLINE {
            unroll<COLUMNS>([&](auto i) INLINE { store(pooled[c][b + j] + q + i * L, sums[j][i]); });
        });
    }

    // Lists what is left of the second convolution's output gradient: by band, then by channel.
    void find_spikes(int image, const uint8_t* noise) {
        const T scale = noise ? SCALE<CUT1> : 1;
        const int32_t shift[] = {0, MAPS1, ROW, ROW + MAPS1};
        int32_t first[WINDOWS];
        for (int q = 0; q < WINDOWS; ++q) first[q] = 2 * (q / ACROSS * ROW + q % ACROSS * MAPS1);
        uint8_t all_kept[BAND];
        std::fill_n(all_kept, BAND, 255);
        Spike* next = spikes;
        for (int q0 = 0; q0 < WINDOWS; q0 += BAND)
            for (int c = 0; c < MAPS2; ++c) {
                const Spike* const before = next;
                const uint8_t* bytes = noise ? noise + c * WINDOWS + q0 : all_kept;
                const uint8_t* won = winner[image] + q0 * MAPS2 + c;
                for (int q = 0; q < BAND; ++q) {
                    next->at = first[q0 + q] + shift[won[q * MAPS2]];
                    next->value = pooled[c][image][q0 + q] * scale;
                    next += bytes[q] >= CUT1;
                }
                spike_counts[q0 / BAND][c] = (int)(next - before);
            }
    }

    // sum2, sum2_b += gradient of the second convolution, of some rows of its kernels at a time.
    void convolve2_weight_gradient() {
        constexpr int ROWS = PATCH_ROWS, N = PIECE;
        const Spike* spike = spikes;
        for (int band = 0; band < BANDS; ++band)
            for (int c = 0; c < MAPS2; ++c) {
                const Spike* const end = spike + spike_counts[band][c];
                for (int part = 0; part < 3 / ROWS * (PATCH / N); ++part) {
                    const int ky = part / (PATCH / N) * ROWS, v = part % (PATCH / N) * N;
                    V sum[ROWS][N]{};
                    T total = 0;
                    const T* first = convolved + ky * ROW + v * L;
                    for (const Spike* s = spike; s < end; ++s) {
                        const T* patch = first + s->at;
                        const T d = s->value;
                        total += d;
                        unroll<ROWS * N>([&](auto i) INLINE {
                            sum[i / N][i % N] += load(patch + i / N * ROW + i % N * L) * d;
                        });
                    }
                    T* there = sum2 + c * TAPS * MAPS1 + ky * PATCH_ROW + v * L;
                    unroll<ROWS * N>([&](auto i) INLINE {
                        T* taps = there + (i / N * PATCH + i % N) * L;
                        store(taps, load(taps) + sum[i / N][i % N]);
                    });
                    if (part == 0) sum2_b[c] += total;
                }
                spike = end;
            }
    }

    // d_convolved = gradient with respect to the second convolution's input.
    void convolve2_input_gradient() {
        constexpr int ROWS = PATCH_ROWS, N = PIECE;
        std::memset(d_convolved, 0, sizeof d_convolved);
        const Spike* spike = spikes;
        for (int band = 0; band < BANDS; ++band)
            for (int c = 0; c < MAPS2; ++c) {
                const Spike* const end = spike + spike_counts[band][c];
                for (int part = 0; part < 3 / ROWS * (PATCH / N); ++part) {
                    const int ky = part / (PATCH / N) * ROWS, v = part % (PATCH / N) * N;
                    V weights[ROWS][N];
                    const T* from = back2 + c * TAPS * MAPS1 + ky * PATCH_ROW + v * L;
                    unroll<ROWS * N>([&](auto i) INLINE {
                        weights[i / N][i % N] = load(from + (i / N * PATCH + i % N) * L);
                    });
                    T* first = d_convolved + ky * ROW + v * L;
                    for (const Spike* s = spike; s < end; ++s) {
                        T* patch = first + s->at;
                        const T d = s->value;
                        unroll<ROWS * N>([&](auto i) INLINE {
                            T* there = patch + i / N * ROW + i % N * L;
                            store(there, load(there) + weights[i / N][i % N] * d);
                        });
                    }
                }
                spike = end;
            }
    }

    void convolve1_gradient() {
        for (int v = 0; v < MAPS1; v += L) {
            V sum[TAPS]{}, total{};
            for (int y = 0; y < SIDE1; ++y)
                for (int x0 = 0; x0 < SIDE1; ++x0) {
                    const int at = (y * SIDE1 + x0) * MAPS1 + v;
                    const V d = load(convolved + at) == V{} ? V{} : load(d_convolved + at);
                    const T* patch = pixels + y * SIDE + x0;
                    unroll<TAPS>([&](auto k) INLINE { sum[k] += d * patch[k / 3 * SIDE + k % 3]; });
                    total += d;
                    forget_loads();
                }
            unroll<TAPS>([&](auto k) INLINE {
                T* there = sum1 + k * MAPS1 + v;
                store(there, load(there) + sum[k]);
            });
            store(sum1_b + v, load(sum1_b + v) + total);
        }
    }

    void backward(const T* w, const Images& of, int64_t start, int count, T* out) {
        connect2_gradient(count, w + FC2_W, out + FC2_W, out + FC2_B);
        connect1_gradient(count, w + FC1_W, out + FC1_W, out + FC1_B, start == 0);
        for (int b = 0; b < count; ++b) {
            convolve1(of, start + b, w + CONV1_B);  // again: it takes no longer than to fetch it
            find_spikes(b, noise(of, start + b));
            convolve2_weight_gradient();
            convolve2_input_gradient();
            convolve1_gradient();
        }
    }

    // ---- all images ----

    T gradient(const T* w, const Images& of, T* out) {
        T loss = 0;
        prepare(w);
        std::fill_n(sum1, TAPS * MAPS1, T{});
        std::fill_n(sum1_b, MAPS1, T{});
        std::fill_n(sum2, MAPS2 * TAPS * MAPS1, T{});
        std::fill_n(sum2_b, MAPS2, T{});
        std::fill_n(out + FC1_B, PARAMETERS - FC1_B, T{});
        for (int64_t start = 0; start < of.count; start += IMAGES) {
            const int count = (int)std::min<int64_t>(IMAGES, of.count - start);
            forward(w, of, start, count);
            for (int b = 0; b < count; ++b) {
                const int64_t label = of.labels[of.row(start + b)];
                loss += cross_entropy(logits[b], label, d_logits[b]);
                d_logits[b][label] -= 1;
                for (int c = 0; c < CLASSES; ++c) d_logits[b][c] /= of.count;
            }
            backward(w, of, start, count, out);
        }
        for (int o = 0; o < MAPS1; ++o)
            for (int k = 0; k < TAPS; ++k) out[CONV1_W + o * TAPS + k] = sum1[k * MAPS1 + o];
        std::copy_n(sum1_b, MAPS1, out + CONV1_B);
        for (int o = 0; o < MAPS2; ++o)
            for (int i = 0; i < MAPS1; ++i)
                for (int k = 0; k < TAPS; ++k)
                    out[CONV2_W + (o * MAPS1 + i) * TAPS + k] = sum2[(o * TAPS + k) * MAPS1 + i];
        std::copy_n(sum2_b, MAPS2, out + CONV2_B);
        return loss / of.count;
    }

    void predict(const T* w, const Images& of, double* losses, int64_t* classes) {
        prepare(w);
        for (int64_t start = 0; start < of.count; start += IMAGES) {
            const int here = (int)std::min<int64_t>(IMAGES, of.count - start);
            forward(w, of, start, here);
            for (int b = 0; b < here; ++b) {
                T p[CLASSES];
                losses[start + b] = cross_entropy(logits[b], of.labels[of.row(start + b)], p);
                classes[start + b] = predicted_class(logits[b]);
            }
        }
    }
};

}  // namespace

EXPORT_NETWORK(large_cnn, LargeCnn, float, float32)
EXPORT_NETWORK(large_cnn, LargeCnn, double, float64)
