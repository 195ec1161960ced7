// Squared errors of rounding rows to integers, for many steps at once, in torch's order of additions: the bits are torch's.
//
// torch adds a row's vectors in four ways, sixteen rounds at a time, and the vector's lanes last (aten/native/cpu/SumKernel.cpp).
// Contraction into fused multiply-adds must be off.
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#define DG_VECTORS __attribute__((target("avx2")))
#else
#define DG_VECTORS
#endif
#define DG_INLINE static inline __attribute__((always_inline))

namespace {

constexpr int kWays = 4, kRounds = 16;
constexpr int kMost = 32;     // steps of a row
constexpr int kPlaces = 256;  // by which a step is found again

struct Levels {
  float low, high;
};

template <int N>
struct Vector {
  typedef float Floats __attribute__((vector_size(4 * N)));
};
template <int N>
using Floats = typename Vector<N>::Floats;

// Of each of N weights.
template <int N>
DG_INLINE Floats<N> squared(const float* from, float step, Levels levels) {
  typedef Floats<N> F;
  F w;
  std::memcpy(&w, from, sizeof(w));
  const F s = F{} + step, low = F{} + levels.low, high = F{} + levels.high;
  F q = w / s;
  q = q < low ? low : q;
  q = q > high ? high : q;
  q = (q + 12582912.0f) - 12582912.0f;  // nearest, halves to even
  q = q * s - w;
  return q * q;
}

template <int N>
struct Sums {
  Floats<N> a, b, c, d;
};

template <int N>
DG_INLINE void add_rounds(Sums<N>& sums, const float* w, int64_t rounds, float step, Levels levels) {
  Floats<N> a = sums.a, b = sums.b, c = sums.c, d = sums.d;
  for (; rounds > 0; --rounds, w += kWays * N) {
    a += squared<N>(w, step, levels);
    b += squared<N>(w + N, step, levels);
    c += squared<N>(w + 2 * N, step, levels);
    d += squared<N>(w + 3 * N, step, levels);
  }
  sums = Sums<N>{a, b, c, d};
}

template <int N>
DG_INLINE void add(Sums<N>& to, const Sums<N>& from) {
  to = Sums<N>{to.a + from.a, to.b + from.b, to.c + from.c, to.d + from.d};
}

// More rounds than one level of sums takes.
template <int N>
DG_INLINE void add_levels(Sums<N>& sums, const float* w, int64_t rounds, float step, Levels levels) {
  Sums<N> second = {}, third = {}, fourth = {};
  int64_t done = 0;
  while (done + kRounds <= rounds) {
    add_rounds<N>(sums, w + done * kWays * N, kRounds, step, levels);
    done += kRounds;
    add<N>(second, sums);
    sums = Sums<N>{};
    if (done % (kRounds * kRounds) != 0) continue;
    add<N>(third, second);
    second = Sums<N>{};
    if (done % (kRounds * kRounds * kRounds) != 0) continue;
    add<N>(fourth, third);
    third = Sums<N>{};
  }
  add_rounds<N>(sums, w + done * kWays * N, rounds - done, step, levels);
  add<N>(sums, second);
  add<N>(sums, third);
  add<N>(sums, fourth);
}

template <int N>
DG_INLINE Floats<N> lanes(const float* w, int64_t vectors, float step, Levels levels) {
  const int64_t rounds = vectors / kWays;
  Sums<N> sums = {};
  if (rounds < kRounds) {
    add_rounds<N>(sums, w, rounds, step, levels);
  } else {
    add_levels<N>(sums, w, rounds, step, levels);
  }
  for (int64_t v = rounds * kWays; v < vectors; ++v) sums.a += squared<N>(w + v * N, step, levels);
  return ((sums.a + sums.b) + sums.c) + sums.d;
}

// The different ones of a row's steps, and where each step is among them; `places` may hold anything below kMost.
DG_INLINE int different(const float* steps, int count, float* kept, uint8_t* of, uint8_t* places) {
  int number = 0;
  for (int c = 0; c < count; ++c) {
    uint32_t bits;
    std::memcpy(&bits, steps + c, sizeof(bits));
    uint8_t& place = places[(bits >> 16) % kPlaces];
    const bool known = place < number && kept[place] == steps[c];
    kept[number] = steps[c];
    of[c] = place = known ? place : static_cast<uint8_t>(number);
    number += !known;
  }
  return number;
}

template <int N>
DG_INLINE void errors(const float* w, int64_t rows, int64_t size, const float* steps, int count, Levels levels, float* out) {
  const int64_t vectors = size / N;
  uint8_t of[kMost], places[kPlaces] = {};
  float kept[kMost + 1];
  Floats<N> sums[kMost];
  for (; rows > 0; --rows, w += size, steps += count, out += count) {
    const int number = different(steps, count, kept, of, places);
    for (int c = 0; c < number; ++c) sums[c] = lanes<N>(w, vectors, kept[c], levels);
    for (int c = 0; c < number; ++c) {
      float total = 0;
      for (int64_t i = vectors * N; i < size; ++i) total += squared<1>(w + i, kept[c], levels)[0];
      for (int n = 0; n < N; ++n) total += sums[c][n];
      kept[c] = total;
    }
    for (int c = 0; c < count; ++c) out[c] = kept[of[c]];
  }
}

template <int N>
DG_VECTORS void errors_by(const float* w, int64_t rows, int64_t size, const float* steps, int count, Levels levels, float* out) {
  if (size < N) {
    errors<1>(w, rows, size, steps, count, levels, out);
  } else {
    errors<N>(w, rows, size, steps, count, levels, out);
  }
}

}  // namespace

// w [rows, size], steps [rows, count] → out [rows, count]. Returns false where this processor, or this code, cannot.
extern "C" bool dg_squared_errors(const float* w, int64_t rows, int64_t size, const float* steps, int64_t count, float low,
                                  float high, int lanes, float* out) {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2")) return false;
#endif
  if (count > kMost || size > (int64_t{1} << 20)) return false;
  (lanes == 4 ? errors_by<4> : errors_by<8>)(w, rows, size, steps, static_cast<int>(count), {low, high}, out);
  return true;
}
