// Kernels of x86-64: AVX-512 with VNNI, AVX-VNNI, and AVX2 alone.
//
// VNNI multiplies unsigned by signed bytes: 128 is added to weights, and 128 times the row's sum is where sums start from. AVX2's
// product of bytes saturates, so there bytes become words first.
#if defined(__x86_64__)
#include <immintrin.h>

#include "lanes.h"

#define DG_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define DG_AVXVNNI __attribute__((target("avx2,avxvnni")))
#define DG_AVX2 __attribute__((target("avx2")))

namespace dgemma {
namespace {

inline int32_t four(const int8_t* from) {
  int32_t value;
  std::memcpy(&value, from, 4);
  return value;
}

DG_LANES(avx512, 16, DG_AVX512)

template <int M>
DG_AVX512 void rows_avx512(const int8_t* weights, const int8_t* rows, const int32_t* totals, int blocks, int32_t* sums) {
  const int8_t* second = weights + static_cast<size_t>(blocks) * kBlock;
  const __m512i sign = _mm512_set1_epi8(-128);
  __m512i a[M], b[M];
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i) a[i] = b[i] = _mm512_set1_epi32(-128 * totals[i]);
  for (int block = 0; block < blocks; ++block, weights += kBlock, second += kBlock, rows += 4 * M) {
    const __m512i w = _mm512_xor_si512(_mm512_loadu_si512(weights), sign);
    const __m512i v = _mm512_xor_si512(_mm512_loadu_si512(second), sign);
#pragma GCC unroll 12
    for (int i = 0; i < M; ++i) {
      const __m512i x = _mm512_set1_epi32(four(rows + 4 * i));
      a[i] = _mm512_dpbusd_epi32(a[i], w, x);
      b[i] = _mm512_dpbusd_epi32(b[i], v, x);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < M; ++i) {
    _mm512_storeu_si512(sums + kPair * i, a[i]);
    _mm512_storeu_si512(sums + kPair * i + kPanel, b[i]);
  }
}

void product_avx512(const int8_t* w, const int8_t* rows, const int32_t* totals, int count, int blocks, int32_t* sums) {
  using Rows = void (*)(const int8_t*, const int8_t*, const int32_t*, int, int32_t*);
  static const Rows of[kMostRows] = {rows_avx512<1>, rows_avx512<2>, rows_avx512<3>, rows_avx512<4>,
                                     rows_avx512<5>, rows_avx512<6>, rows_avx512<7>, rows_avx512<8>,
                                     rows_avx512<9>, rows_avx512<10>, rows_avx512<11>, rows_avx512<12>};
  of[count - 1](w, rows, totals, blocks, sums);
}

// M rows of one panel of 4-bit integers: plus 8 they are the unsigned bytes, and eight times the row's integers is taken off
// each group.
template <int M>
DG_AVX512 void few_avx512(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int blocks, int group,
                          int32_t* sums) {
  const __m512i half = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
  __m512i total[M];
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) total[i] = _mm512_setzero_si512();
  for (int first = 0; first < blocks; first += group / 4, multipliers += kPanel) {
    const int last = first + group / 4 < blocks ? first + group / 4 : blocks;
    __m512i a[M][2], off[M][2];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) a[i][0] = a[i][1] = off[i][0] = off[i][1] = _mm512_setzero_si512();
    for (int block = first; block < last; block += 2, packed += kBlock, rows += 8 * M) {
      const __m512i both = _mm512_loadu_si512(packed);
      const __m512i weights[2] = {_mm512_and_si512(both, half), _mm512_and_si512(_mm512_srli_epi16(both, 4), half)};
#pragma GCC unroll 4
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          const __m512i x = _mm512_set1_epi32(four(rows + 4 * (M * j + i)));
          a[i][j] = _mm512_dpbusd_epi32(a[i][j], weights[j], x);
          off[i][j] = _mm512_dpbusd_epi32(off[i][j], eight, x);
        }
      }
    }
    const __m512i by = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(multipliers)));
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      const __m512i taken = _mm512_add_epi32(off[i][0], off[i][1]);
      const __m512i part = _mm512_sub_epi32(_mm512_add_epi32(a[i][0], a[i][1]), taken);
      total[i] = _mm512_add_epi32(total[i], _mm512_mullo_epi32(part, by));
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < M; ++i) _mm512_storeu_si512(sums + kPair * i, total[i]);
}

// The low and the high halves of 64 bytes.
__attribute__((target("avx2"), always_inline)) inline void halves(const uint8_t* packed, __m256i* low, __m256i* high) {
  const __m256i half = _mm256_set1_epi8(15);
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed + 32 * k));
    low[k] = _mm256_and_si256(both, half);
    high[k] = _mm256_and_si256(_mm256_srli_epi16(both, 4), half);
  }
}

DG_LANES(avxvnni, 8, DG_AVXVNNI)

// M rows of one panel.
template <int M>
DG_AVXVNNI void few_avxvnni(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int blocks, int group,
                            int32_t* sums) {
  const __m256i eight = _mm256_set1_epi8(8);
  __m256i total[M][2];
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) total[i][0] = total[i][1] = _mm256_setzero_si256();
  for (int first = 0; first < blocks; first += group / 4, multipliers += kPanel) {
    const int last = first + group / 4 < blocks ? first + group / 4 : blocks;
    __m256i a[M][2], off[M];
#pragma GCC unroll 2
    for (int i = 0; i < M; ++i) a[i][0] = a[i][1] = off[i] = _mm256_setzero_si256();
    for (int block = first; block < last; block += 2, packed += kBlock, rows += 8 * M) {
      __m256i low[2], high[2];
      halves(packed, low, high);
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) {
        const __m256i x = _mm256_set1_epi32(four(rows + 4 * i)), y = _mm256_set1_epi32(four(rows + 4 * (M + i)));
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          a[i][k] = _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(a[i][k], low[k], x), high[k], y);
        }
        off[i] = _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(off[i], eight, x), eight, y);
      }
    }
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const __m256i by = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(multipliers + 8 * k)));
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) {
        total[i][k] = _mm256_add_epi32(total[i][k], _mm256_mullo_epi32(_mm256_sub_epi32(a[i][k], off[i]), by));
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i), total[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i + 8), total[i][1]);
  }
}

// M rows of one panel; `step` bytes from a block of all rows to the next one.
template <int M>
DG_AVXVNNI void rows_avxvnni(const int8_t* weights, const int8_t* rows, const int32_t* totals, int step, int blocks,
                             int32_t* sums) {
  const __m256i sign = _mm256_set1_epi8(-128);
  __m256i a[M], b[M];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) a[i] = b[i] = _mm256_set1_epi32(-128 * totals[i]);
  for (int block = 0; block < blocks; ++block, weights += kBlock, rows += step) {
    const __m256i w = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights)), sign);
    const __m256i v = _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32)), sign);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const __m256i x = _mm256_set1_epi32(four(rows + 4 * i));
      a[i] = _mm256_dpbusd_avx_epi32(a[i], w, x);
      b[i] = _mm256_dpbusd_avx_epi32(b[i], v, x);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i), a[i]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i + 8), b[i]);
  }
}

DG_LANES(avx2, 8, DG_AVX2)

// As above. Products of bytes are added up as words: eight times two of at most 15 · 128 fit one.
template <int M>
DG_AVX2 void few_avx2(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int blocks, int group,
                      int32_t* sums) {
  const __m256i eight = _mm256_set1_epi8(8), ones = _mm256_set1_epi16(1);
  __m256i total[M][2];
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) total[i][0] = total[i][1] = _mm256_setzero_si256();
  for (int first = 0; first < blocks; first += group / 4, multipliers += kPanel) {
    const int last = first + group / 4 < blocks ? first + group / 4 : blocks;
    __m256i part[M][2];
#pragma GCC unroll 2
    for (int i = 0; i < M; ++i) part[i][0] = part[i][1] = _mm256_setzero_si256();
    for (int from = first; from < last; from += 8) {
      const int to = from + 8 < last ? from + 8 : last;
      __m256i a[M][2], off[M];
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) a[i][0] = a[i][1] = off[i] = _mm256_setzero_si256();
      for (int block = from; block < to; block += 2, packed += kBlock, rows += 8 * M) {
        __m256i low[2], high[2];
        halves(packed, low, high);
#pragma GCC unroll 2
        for (int i = 0; i < M; ++i) {
          const __m256i x = _mm256_set1_epi32(four(rows + 4 * i)), y = _mm256_set1_epi32(four(rows + 4 * (M + i)));
#pragma GCC unroll 2
          for (int k = 0; k < 2; ++k) {
            const __m256i sum = _mm256_add_epi16(_mm256_maddubs_epi16(low[k], x), _mm256_maddubs_epi16(high[k], y));
            a[i][k] = _mm256_add_epi16(a[i][k], sum);
          }
          off[i] = _mm256_add_epi16(off[i], _mm256_add_epi16(_mm256_maddubs_epi16(eight, x), _mm256_maddubs_epi16(eight, y)));
        }
      }
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) {
        const __m256i taken = _mm256_madd_epi16(off[i], ones);
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) {
          part[i][k] = _mm256_add_epi32(part[i][k], _mm256_sub_epi32(_mm256_madd_epi16(a[i][k], ones), taken));
        }
      }
    }
#pragma GCC unroll 2
    for (int k = 0; k < 2; ++k) {
      const __m256i by = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(multipliers + 8 * k)));
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) total[i][k] = _mm256_add_epi32(total[i][k], _mm256_mullo_epi32(part[i][k], by));
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i), total[i][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i + 8), total[i][1]);
  }
}

// As above; two lanes a sum until the end.
template <int M>
DG_AVX2 void rows_avx2(const int8_t* weights, const int8_t* rows, const int32_t*, int step, int blocks, int32_t* sums) {
  __m256i a[M][4];
#pragma GCC unroll 3
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) a[i][j] = _mm256_setzero_si256();
  }
  for (int block = 0; block < blocks; ++block, weights += kBlock, rows += step) {
    __m256i x[M];
#pragma GCC unroll 3
    for (int i = 0; i < M; ++i) x[i] = _mm256_cvtepi8_epi16(_mm_set1_epi32(four(rows + 4 * i)));
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights + 16 * j)));
#pragma GCC unroll 3
      for (int i = 0; i < M; ++i) a[i][j] = _mm256_add_epi32(a[i][j], _mm256_madd_epi16(w, x[i]));
    }
  }
#pragma GCC unroll 3
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
      const __m256i sum = _mm256_permute4x64_epi64(_mm256_hadd_epi32(a[i][j], a[i][j + 1]), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + kPair * i + 4 * j), sum);
    }
  }
}

using Rows = void (*)(const int8_t*, const int8_t*, const int32_t*, int, int, int32_t*);

// Rows in as few parts of at most `most` as will do, of about the same size, panel by panel.
void in_parts(const Rows* of, int most, const int8_t* weights, const int8_t* rows, const int32_t* totals, int count,
              int blocks, int32_t* sums) {
  const int parts = (count + most - 1) / most;
  for (int panel = 0; panel < 2; ++panel) {
    const int8_t* w = weights + static_cast<size_t>(panel) * blocks * kBlock;
    for (int part = 0; part < parts; ++part) {
      const int from = count * part / parts, to = count * (part + 1) / parts;
      of[to - from - 1](w, rows + 4 * from, totals + from, 4 * count, blocks, sums + kPair * from + kPanel * panel);
    }
  }
}

void product_avxvnni(const int8_t* w, const int8_t* rows, const int32_t* totals, int count, int blocks, int32_t* sums) {
  static const Rows of[] = {rows_avxvnni<1>, rows_avxvnni<2>, rows_avxvnni<3>, rows_avxvnni<4>, rows_avxvnni<5>,
                            rows_avxvnni<6>};
  in_parts(of, 6, w, rows, totals, count, blocks, sums);
}

void product_avx2(const int8_t* w, const int8_t* rows, const int32_t* totals, int count, int blocks, int32_t* sums) {
  static const Rows of[] = {rows_avx2<1>, rows_avx2<2>, rows_avx2<3>};
  in_parts(of, 3, w, rows, totals, count, blocks, sums);
}

using Few = void (*)(const uint8_t*, const uint8_t*, const int8_t*, int, int, int32_t*);

void product_few_avx512(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks, int group,
                        int32_t* sums) {
  static const Few of[] = {few_avx512<1>, few_avx512<2>, few_avx512<3>, few_avx512<4>};
  of[count - 1](packed, multipliers, rows, blocks, group, sums);
}

void product_few_avxvnni(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks,
                         int group, int32_t* sums) {
  (count == 1 ? few_avxvnni<1> : few_avxvnni<2>)(packed, multipliers, rows, blocks, group, sums);
}

void product_few_avx2(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks, int group,
                      int32_t* sums) {
  (count == 1 ? few_avx2<1> : few_avx2<2>)(packed, multipliers, rows, blocks, group, sums);
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
bool has_avxvnni() { return __builtin_cpu_supports("avxvnni") && __builtin_cpu_supports("avx2"); }
bool has_avx2() { return __builtin_cpu_supports("avx2"); }

const Kernel kAvx512 = {"avx512vnni", has_avx512, product_avx512, product_few_avx512, 4,
                         expand_avx512, round_avx512, gate_avx512, add_avx512};
const Kernel kAvxVnni = {"avxvnni", has_avxvnni, product_avxvnni, product_few_avxvnni, 2,
                          expand_avxvnni, round_avxvnni, gate_avxvnni, add_avxvnni};
const Kernel kAvx2 = {"avx2", has_avx2, product_avx2, product_few_avx2, 2,
                       expand_avx2, round_avx2, gate_avx2, add_avx2};

}  // namespace

const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kAvx512, &kAvxVnni, &kAvx2, &kPortable, nullptr};
  return all;
}

}  // namespace dgemma
#endif
