// The noise of dgemma: threefry2x32 (Salmon et al., SC 2011) with JAX's partitionable counters; see core/noise.py.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

using Pair = std::pair<uint32_t, uint32_t>;

inline Pair threefry(Pair key, uint32_t a, uint32_t b) {
  static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t ks[3] = {key.first, key.second, key.first ^ key.second ^ 0x1BD11BDAu};
  a += ks[0];
  b += ks[1];
  for (int group = 0; group < 5; ++group) {
    for (const int r : rotations[group % 2]) {
      a += b;
      b = (b << r | b >> (32 - r)) ^ a;
    }
    a += ks[(group + 1) % 3];
    b += ks[(group + 2) % 3] + group + 1;
  }
  return {a, b};
}

// Key of one stream of a canvas: stream 0 is the initial canvas, stream i the i-th step.
inline Pair stream_key(uint64_t seed, uint32_t canvas, uint32_t stream) {
  const Pair key = threefry({static_cast<uint32_t>(seed >> 32), static_cast<uint32_t>(seed)}, 0, canvas);
  return threefry(key, 0, stream);
}

inline uint32_t word(Pair key, uint32_t index) {
  const Pair bits = threefry(key, 0, index);
  return bits.first ^ bits.second;
}

// Initial canvas [n] and words of all steps [steps, 2, n].
inline void fill(uint64_t seed, uint32_t canvas, uint64_t vocabulary, std::vector<int64_t>& initial, std::vector<int64_t>& words) {
  const uint32_t n = static_cast<uint32_t>(initial.size()), all = static_cast<uint32_t>(words.size());
  for (uint32_t i = 0; i < n; ++i) initial[i] = static_cast<int64_t>(word(stream_key(seed, canvas, 0), i) * vocabulary >> 32);
  for (uint32_t i = 0; i < all; ++i) words[i] = word(stream_key(seed, canvas, 1 + i / (2 * n)), i % (2 * n));
}
