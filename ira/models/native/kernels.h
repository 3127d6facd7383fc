// What a step is made of: products of a matrix and a few rows, normalisation, rotary positions, attention of one query.
//
// Weights have BITS: 32, 16, 8 or 4.

#pragma once

#include "numbers.h"

// weights [out][padded in]; scales: [out][padded in / GROUP] of 4-bit weights, [out] of 8-bit ones.
struct Matrix {
    const void* weights;
    const float* scales;
    int32_t outputs, padded;
};

namespace {

constexpr int GROUP = 32;        // inputs that are read together, and of one scale of 4-bit weights
constexpr int TOGETHER = 4;      // outputs, and rows, that are summed up side by side
constexpr int AHEAD = 12288;     // bytes of weights that are asked for before they are needed: twice as fast as without
constexpr int KEYS_AHEAD = 4096;  // the same of keys and values

// `weights_at`: of 32 weights from input i on, the first and the last 16.
#if BITS == 32
inline void weights_at(const Matrix& m, int64_t output, int i, Floats& first, Floats& last) {
    const float* w = (const float*)m.weights + output * m.padded + i;
    first = load<Floats>(w);
    last = load<Floats>(w + LANES);
}

#elif BITS == 16
inline void weights_at(const Matrix& m, int64_t output, int i, Floats& first, Floats& last) {
    const uint16_t* w = (const uint16_t*)m.weights + output * m.padded + i;
    first = from_fp16(load<Shorts>(w));
    last = from_fp16(load<Shorts>(w + LANES));
}

#elif BITS == 8
inline void weights_at(const Matrix& m, int64_t output, int i, Floats& first, Floats& last) {
    const int8_t* w = (const int8_t*)m.weights + output * m.padded + i;
    first = widened(load<Bytes>(w));
    last = widened(load<Bytes>(w + LANES));
}

#else
// Low halves of 16 bytes are the first weights, high ones the last: int4 + 8.
inline void weights_at(const Matrix& m, int64_t output, int i, Floats& first, Floats& last) {
    Ints both = unsigned_ints(load<Bytes>((const uint8_t*)m.weights + (output * m.padded + i) / 2));
    float scale = m.scales[(output * m.padded + i) / GROUP];
    first = __builtin_convertvector(both & 15, Floats) * scale - 8 * scale;
    last = __builtin_convertvector(both >> 4, Floats) * scale - 8 * scale;
}
#endif

// OUTS outputs of ROWS rows: weights are read once and stay in registers for all of them.
template <int OUTS, int ROWS, class Take>
void block(const Matrix& m, int output, const float* x, int row, Take& take) {
    Floats sums[OUTS][ROWS] = {};  // in registers, if every loop over it is unrolled
    for (int i = 0; i < m.padded; i += GROUP)
#pragma GCC unroll 4
        for (int o = 0; o < OUTS; o++) {
            Floats first, last;
            weights_at(m, output + o, i, first, last);
            __builtin_prefetch((const char*)m.weights + ((int64_t)(output + o) * m.padded + i) * BITS / 8 + AHEAD);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const float* in = x + (int64_t)(row + r) * m.padded + i;
                sums[o][r] += first * load<Floats>(in);
                sums[o][r] += last * load<Floats>(in + LANES);
            }
        }
#pragma GCC unroll 4
    for (int o = 0; o < OUTS; o++)
#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
            take(row + r, output + o, sum(sums[o][r]) * (BITS == 8 ? m.scales[output + o] : 1.0f));
}

template <int OUTS, class Take>
void all_rows(const Matrix& m, int output, const float* x, int rows, Take& take) {
    int row = 0;
    for (; row + TOGETHER <= rows; row += TOGETHER) block<OUTS, TOGETHER>(m, output, x, row, take);
    for (; row + 2 <= rows; row += 2) block<OUTS, 2>(m, output, x, row, take);
    if (row < rows) block<OUTS, 1>(m, output, x, row, take);
}

// Outputs [begin, end) of x [rows][padded in], each handed to take(row, output, value).
template <class Take>
void multiply(const Matrix& m, int begin, int end, const float* x, int rows, Take take) {
    int output = begin;
    for (; output + TOGETHER <= end; output += TOGETHER) all_rows<TOGETHER>(m, output, x, rows, take);
    for (; output < end; output++) all_rows<1>(m, output, x, rows, take);
}

void normalise(const float* x, const float* weight, float eps, int rows, int width, int padded, float* into) {
    for (int r = 0; r < rows; r++) {
        const float* from = x + (int64_t)r * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int i = 0; i < width; i++) squares += from[i] * from[i];
        float scale = 1.0f / std::sqrt(squares / width + eps);
        for (int i = 0; i < width; i++) into[(int64_t)r * padded + i] = from[i] * scale * weight[i];
    }
}

void turn(float* x, const float* cos, const float* sin, int size) {  // rotary positions
    for (int i = 0, half = size / 2; i < half; i++) {
        float left = x[i], right = x[i + half];
        x[i] = left * cos[i] - right * sin[i];
        x[i + half] = right * cos[i + half] + left * sin[i + half];
    }
}

// How many numbers of a head are taken at once: vectors where they fit, else one.
template <int SIZE> float product(const float* q, const uint16_t* key, int size) {
    Floats total = {};
    for (int i = 0; i < SIZE; i += LANES) total += load<Floats>(q + i) * from_bf16(load<Shorts>(key + i));
    return sum(total);
}

template <> float product<0>(const float* q, const uint16_t* key, int size) {
    float total = 0;
    for (int i = 0; i < size; i++) total += q[i] * from_bf16(key[i]);
    return total;
}

template <int SIZE> void weigh(const float* weights, const uint16_t* values, int count, int size, float* into) {
    Floats sums[SIZE / LANES] = {};
    for (int p = 0; p < count; p++) {
        __builtin_prefetch((const char*)(values + (int64_t)p * SIZE) + KEYS_AHEAD);
        for (int i = 0; i < SIZE; i += LANES)
            sums[i / LANES] += weights[p] * from_bf16(load<Shorts>(values + (int64_t)p * SIZE + i));
    }
    std::memcpy(into, sums, sizeof sums);
}

template <> void weigh<0>(const float* weights, const uint16_t* values, int count, int size, float* into) {
    std::fill(into, into + size, 0.0f);
    for (int p = 0; p < count; p++)
        for (int i = 0; i < size; i++) into[i] += weights[p] * from_bf16(values[(int64_t)p * size + i]);
}

// Of one query [size] over `count` keys and values; scores: [count], what is to be added to them, and used up.
template <int SIZE>
void attend(const float* q, const uint16_t* keys, const uint16_t* values, int count, int size, float* scores,
            float* into) {
    float scale = 1.0f / std::sqrt((float)size);
    for (int p = 0; p < count; p++) {
        __builtin_prefetch((const char*)(keys + (int64_t)p * size) + KEYS_AHEAD);
        scores[p] += product<SIZE>(q, keys + (int64_t)p * size, size) * scale;
    }
    float total = softened(scores, count);
    for (int p = 0; p < count; p++) scores[p] /= total;
    weigh<SIZE>(scores, values, count, size, into);
}

}  // namespace
