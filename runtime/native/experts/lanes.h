// The float and byte arithmetic of all kernels, in lanes that compilers turn into whatever vectors a function may use.
//
// Every kernel compiles the same operations in the same order. Contraction into fused multiply-adds must be off.
#pragma once
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel.h"

#define DG_INLINE static inline __attribute__((always_inline))

namespace dgemma {

// N floats, integers, or 4 N bytes.
template <int N>
struct Lanes {
  typedef float Floats __attribute__((vector_size(4 * N)));
  typedef int32_t Ints __attribute__((vector_size(4 * N)));
  typedef uint8_t Bytes __attribute__((vector_size(4 * N)));
  typedef uint16_t Words __attribute__((vector_size(4 * N)));
  typedef int8_t Narrow __attribute__((vector_size(N)));
};
template <int N>
using Floats = typename Lanes<N>::Floats;
template <int N>
using Ints = typename Lanes<N>::Ints;

constexpr float kSmallest = 1e-30f;  // as in quantize/activations.py, like kLeast
constexpr float kLeast = static_cast<float>(128.0 / 127.0);

template <typename To>
DG_INLINE void load(To& to, const void* from) {
  std::memcpy(&to, from, sizeof(To));
}

template <typename From>
DG_INLINE void store(void* to, const From& from) {
  std::memcpy(to, &from, sizeof(From));
}

// Nearest integer, halves to even, of magnitudes below 2^22.
template <typename F>
DG_INLINE void nearest(F& x) {
  x = (x + 12582912.0f) - 12582912.0f;
}

// x[0 … N-1] of a row that ends behind `left` more; zeros follow it.
template <int N, typename To>
DG_INLINE void load_some(To& to, const float* x, int left) {
  if (left >= N) {
    load(to, x);
  } else {
    to = To{};
    if (left > 0) std::memcpy(&to, x, left * sizeof(float));
  }
}

template <int N>
DG_INLINE void round_lanes(const float* x, int size, int padded, int8_t* out, float* unit) {
  Ints<N> most = {};
  for (int i = 0; i < size; i += N) {
    Ints<N> bits;
    load_some<N>(bits, x + i, size - i);
    bits &= 0x7fffffff;  // magnitudes are in the order of their bits, and NaN is the largest
    most = bits > most ? bits : most;
  }
  int32_t bits = 0;
  for (int i = 0; i < N; ++i) bits = most[i] > bits ? most[i] : bits;
  if (bits >= 0x7f800000) {
    std::memset(out, 0, padded);
    *unit = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  float largest;
  std::memcpy(&largest, &bits, sizeof(largest));
  largest = largest < kSmallest ? kSmallest : largest;
  const float inverse = 255.0f / (largest + largest * kLeast);
  *unit = 1.0f / inverse;
  for (int i = 0; i < padded; i += N) {
    Floats<N> v;
    load_some<N>(v, x + i, size - i);
    v *= inverse;
    nearest(v);
    const auto whole = __builtin_convertvector(v, Ints<N>);
    const auto rounded = __builtin_convertvector(whole, typename Lanes<N>::Narrow);
    std::memcpy(out + i, &rounded, padded - i < N ? padded - i : N);
  }
}

// x / (1 + exp(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is 0.5 x (1 + tanh u). exp as in Cephes' expf.
template <int N>
DG_INLINE void tanh_gelu(Floats<N>& x) {
  const Floats<N> most = Floats<N>{} + 60.0f;  // 1 + exp(-60) is 1, x / exp(60) as good as 0 and no denormal number
  Floats<N> t = (x + x * x * x * 0.044715f) * -1.5957691216057308f;
  t = t > most ? most : t;
  t = t < -most ? -most : t;
  Floats<N> n = t * 1.44269504088896341f;
  nearest(n);
  const Floats<N> r = (t - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats<N> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints<N> power = (__builtin_convertvector(n, Ints<N>) + 127) << 23;
  Floats<N> scale;
  load(scale, &power);
  x = x / (p * scale + 1.0f);
}

template <int N>
DG_INLINE void scaled(const int32_t* sums, float unit, const float* scale, Floats<N>& out) {
  Ints<N> whole;
  Floats<N> by;
  load(whole, sums);
  load(by, scale);
  out = __builtin_convertvector(whole, Floats<N>) * unit * by;
}

template <int N>
DG_INLINE void gate_lanes(const int32_t* sums, float unit, const float* scale, float* out) {
  for (int i = 0; i < kPanel; i += N) {
    Floats<N> gate, up;
    scaled<N>(sums + i, unit, scale + i, gate);
    scaled<N>(sums + kPanel + i, unit, scale + kPanel + i, up);
    tanh_gelu<N>(gate);
    store(out + i, gate * up);
  }
}

template <int N>
DG_INLINE void add_lanes(const int32_t* sums, float unit, const float* scale, float weight, float* out) {
  for (int i = 0; i < kPair; i += N) {
    Floats<N> made, total;
    scaled<N>(sums + i, unit, scale + i, made);
    load(total, out + i);
    store(out + i, total + made * weight);
  }
}

// (q + 8) m is at most 225, so that two bytes are multiplied as one word; then 8 m is taken off again.
template <int N>
DG_INLINE void expand_lanes(const uint8_t* packed, const uint8_t* multipliers, int blocks, int group, int8_t* out) {
  using Bytes = typename Lanes<N>::Bytes;
  using Words = typename Lanes<N>::Words;
  for (int first = 0; first < blocks; first += group / 4, multipliers += kPanel) {
    const int last = first + group / 4 < blocks ? first + group / 4 : blocks;
    Words factor[kPanel / N];
    Bytes eight[kPanel / N];
    for (int j = 0; j < kPanel / N; ++j) {
      typename Lanes<N>::Narrow narrow;
      load(narrow, multipliers + N * j);
      const Ints<N> wide = __builtin_convertvector(narrow, Ints<N>);
      factor[j] = (Words)(wide * 0x00010001);
      eight[j] = (Bytes)(wide * 0x08080808);
    }
    for (int block = first; block < last; block += 2, packed += kBlock, out += 2 * kBlock) {
      for (int j = 0; j < kPanel / N; ++j) {
        Words both;
        load(both, packed + 4 * N * j);
        store(out + 4 * N * j, (Bytes)((both & 0x0f0f) * factor[j]) - eight[j]);
        store(out + kBlock + 4 * N * j, (Bytes)(((both >> 4) & 0x0f0f) * factor[j]) - eight[j]);
      }
    }
  }
}

// The four of them as functions that may use some instructions, with vectors of `lanes` floats.
#define DG_LANES(suffix, lanes, attributes)                                                                          \
  attributes static void round_##suffix(const float* x, int size, int padded, int8_t* out, float* unit) {            \
    round_lanes<lanes>(x, size, padded, out, unit);                                                                  \
  }                                                                                                                  \
  attributes static void gate_##suffix(const int32_t* sums, float unit, const float* scale, float* out) {            \
    gate_lanes<lanes>(sums, unit, scale, out);                                                                       \
  }                                                                                                                  \
  attributes static void add_##suffix(const int32_t* sums, float unit, const float* scale, float weight, float* out) { \
    add_lanes<lanes>(sums, unit, scale, weight, out);                                                                \
  }                                                                                                                  \
  attributes static void expand_##suffix(const uint8_t* packed, const uint8_t* multipliers, int blocks, int group,   \
                                         int8_t* out) {                                                              \
    expand_lanes<lanes>(packed, multipliers, blocks, group, out);                                                    \
  }

}  // namespace dgemma
