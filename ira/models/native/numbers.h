// Sixteen numbers at a time: vectors of GCC and Clang (https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html), made
// from what is stored in 8 or 16 bits, added up, and raised to e.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__F16C__)
#include <immintrin.h>
#endif

namespace {

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef float Half __attribute__((vector_size(32)));
typedef float Quarter __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(16)));
typedef uint8_t Nibbles __attribute__((vector_size(16)));

template <class V> V load(const void* from) {
    V value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

float sum(Floats v) {
    Half halves[2];
    std::memcpy(halves, &v, sizeof v);
    Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof half);
    Quarter q = quarters[0] + quarters[1];
    return (q[0] + q[2]) + (q[1] + q[3]);
}

// exp to 2e-7 of itself: 2^n, and Cephes' polynomial for the rest.
inline Floats exponential(Floats x) {
    x = x < -87.0f ? Floats{} - 87.0f : x;
    x = x > 87.0f ? Floats{} + 87.0f : x;
    Ints n = __builtin_convertvector(x * 1.44269504f + (x < 0.0f ? Floats{} - 0.5f : Floats{} + 0.5f), Ints);
    Floats whole = __builtin_convertvector(n, Floats);
    Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Floats)((n + 127) << 23);
}

inline float exponential(float x) { return exponential(Floats{} + x)[0]; }

// exp(scores - their largest), and their sum.
float softened(float* scores, int count) {
    constexpr float LEAST = -INFINITY;
    Floats most = Floats{} + LEAST, total = {};
    int whole = count / LANES * LANES;
    Floats last = Floats{} + LEAST;
    std::memcpy(&last, scores + whole, (count - whole) * sizeof(float));
    most = last;
    for (int p = 0; p < whole; p += LANES) {
        Floats some = load<Floats>(scores + p);
        most = some > most ? some : most;
    }
    float largest = most[0];
    for (int i = 1; i < LANES; i++) largest = std::max(largest, most[i]);
    for (int p = 0; p < whole; p += LANES) {
        Floats some = exponential(load<Floats>(scores + p) - largest);
        std::memcpy(scores + p, &some, sizeof some);
        total += some;
    }
    last = last == LEAST ? Floats{} : exponential(last - largest);
    std::memcpy(scores + whole, &last, (count - whole) * sizeof(float));
    return sum(total + last);
}

// Sixteen numbers made wider. GCC takes what is written for any processor apart, number by number, where it has a vector.
#if defined(__AVX512F__)
inline Floats widened(Bytes b) { return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)b)); }
inline Ints unsigned_ints(Bytes b) { return (Ints)_mm512_cvtepu8_epi32((__m128i)b); }
inline Floats from_bf16(Shorts s) { return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)s), 16); }
inline Floats from_fp16(Shorts s) { return (Floats)_mm512_cvtph_ps((__m256i)s); }
#elif defined(__AVX2__) && defined(__F16C__)
template <class V> V joined(__m256i low, __m256i high) {
    __m256i halves[2] = {low, high};
    return load<V>(halves);
}
inline __m128i low(Shorts s) { return _mm256_castsi256_si128((__m256i)s); }
inline __m128i high(Shorts s) { return _mm256_extracti128_si256((__m256i)s, 1); }
inline __m128i high(Bytes b) { return _mm_srli_si128((__m128i)b, 8); }
inline Ints signed_ints(Bytes b) { return joined<Ints>(_mm256_cvtepi8_epi32((__m128i)b), _mm256_cvtepi8_epi32(high(b))); }
inline Floats widened(Bytes b) { return __builtin_convertvector(signed_ints(b), Floats); }
inline Ints unsigned_ints(Bytes b) {
    return joined<Ints>(_mm256_cvtepu8_epi32((__m128i)b), _mm256_cvtepu8_epi32(high(b)));
}
inline Floats from_bf16(Shorts s) {
    return (Floats)(joined<Ints>(_mm256_cvtepu16_epi32(low(s)), _mm256_cvtepu16_epi32(high(s))) << 16);
}
inline Floats from_fp16(Shorts s) {
    return joined<Floats>((__m256i)_mm256_cvtph_ps(low(s)), (__m256i)_mm256_cvtph_ps(high(s)));
}
#else
inline Floats widened(Bytes b) { return __builtin_convertvector(__builtin_convertvector(b, Ints), Floats); }
inline Ints unsigned_ints(Bytes b) { return __builtin_convertvector((Nibbles)b, Ints); }
inline Floats from_bf16(Shorts s) { return (Floats)(__builtin_convertvector(s, Words) << 16); }
#if BITS == 16
#ifdef __ARM_FP16_FORMAT_IEEE
typedef __fp16 Fp16;
#else
typedef _Float16 Fp16;
#endif
inline Floats from_fp16(Shorts s) {
    Fp16 numbers[LANES];
    std::memcpy(numbers, &s, sizeof s);
    Floats value;
    for (int i = 0; i < LANES; i++) value[i] = (float)numbers[i];
    return value;
}
#endif
#endif

inline float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint16_t to_bf16(float x) {  // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace
