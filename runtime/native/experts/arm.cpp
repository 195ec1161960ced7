// Kernels of ARM64: int8 matrix products (Armv8.6) and dot products (Armv8.2).
#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "lanes.h"

#if defined(__clang__)
#define DG_DOTPROD __attribute__((target("dotprod")))
#define DG_I8MM __attribute__((target("dotprod,i8mm")))
#else
#define DG_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#define DG_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif

namespace dgemma {
namespace {

DG_LANES(neon, 4, )

// M rows, a multiple of 4 or fewer than 4, of one panel; `step` bytes from a block of all rows to the next one.
template <int M>
DG_DOTPROD void rows_dotprod(const int8_t* weights, const int8_t* rows, int step, int blocks, int32_t* sums) {
  int32x4_t a[M][4];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) a[i][j] = vdupq_n_s32(0);
  }
  for (int block = 0; block < blocks; ++block, weights += kBlock, rows += step) {
    int8x16_t w[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) w[j] = vld1q_s8(weights + 16 * j);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      int32_t four;
      std::memcpy(&four, rows + 4 * i, 4);
      const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) a[i][j] = vdotq_s32(a[i][j], w[j], x);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) vst1q_s32(sums + kPair * i + 4 * j, a[i][j]);
  }
}

// 2P rows of one panel, two blocks at a time: a product is of 2 rows, 2 outputs and 8 inputs. The number of blocks is even.
template <int P>
DG_I8MM void rows_i8mm(const int8_t* weights, const int8_t* rows, int step, int blocks, int32_t* sums) {
  int32x4_t a[P][8];
#pragma GCC unroll 2
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) a[i][j] = vdupq_n_s32(0);
  }
  for (int block = 0; block < blocks; block += 2, weights += 2 * kBlock, rows += 2 * step) {
    int8x16_t x[P];
#pragma GCC unroll 2
    for (int i = 0; i < P; ++i) {
      const int32x2_t one = vreinterpret_s32_s8(vld1_s8(rows + 8 * i)), two = vreinterpret_s32_s8(vld1_s8(rows + step + 8 * i));
      x[i] = vreinterpretq_s8_s32(vcombine_s32(vzip1_s32(one, two), vzip2_s32(one, two)));
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int32x4_t one = vreinterpretq_s32_s8(vld1q_s8(weights + 16 * j));
      const int32x4_t two = vreinterpretq_s32_s8(vld1q_s8(weights + kBlock + 16 * j));
      const int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(one, two)), high = vreinterpretq_s8_s32(vzip2q_s32(one, two));
#pragma GCC unroll 2
      for (int i = 0; i < P; ++i) {
        a[i][2 * j] = vmmlaq_s32(a[i][2 * j], x[i], low);
        a[i][2 * j + 1] = vmmlaq_s32(a[i][2 * j + 1], x[i], high);
      }
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < P; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      vst1_s32(sums + kPair * 2 * i + 2 * j, vget_low_s32(a[i][j]));
      vst1_s32(sums + kPair * (2 * i + 1) + 2 * j, vget_high_s32(a[i][j]));
    }
  }
}

using Rows = void (*)(const int8_t*, const int8_t*, int, int, int32_t*);

void product_dotprod(const int8_t* weights, const int8_t* rows, const int32_t*, int count, int blocks, int32_t* sums) {
  static const Rows of[] = {rows_dotprod<1>, rows_dotprod<2>, rows_dotprod<3>, rows_dotprod<4>, rows_dotprod<5>,
                            rows_dotprod<6>};
  const int parts = (count + 5) / 6;
  for (int panel = 0; panel < 2; ++panel) {
    const int8_t* w = weights + static_cast<size_t>(panel) * blocks * kBlock;
    for (int part = 0; part < parts; ++part) {
      const int from = count * part / parts, to = count * (part + 1) / parts;
      of[to - from - 1](w, rows + 4 * from, 4 * count, blocks, sums + kPair * from + kPanel * panel);
    }
  }
}

void product_i8mm(const int8_t* weights, const int8_t* rows, const int32_t* totals, int count, int blocks, int32_t* sums) {
  for (int panel = 0; panel < 2; ++panel) {
    const int8_t* w = weights + static_cast<size_t>(panel) * blocks * kBlock;
    int32_t* out = sums + kPanel * panel;
    int row = 0;
    for (; row + 4 <= count; row += 4) rows_i8mm<2>(w, rows + 4 * row, 4 * count, blocks, out + kPair * row);
    for (; row + 2 <= count; row += 2) rows_i8mm<1>(w, rows + 4 * row, 4 * count, blocks, out + kPair * row);
    if (row < count) rows_dotprod<1>(w, rows + 4 * row, 4 * count, blocks, out + kPair * row);
  }
}

// M rows of one panel of 4-bit integers as they are stored.
template <int M>
DG_DOTPROD void few_dotprod(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int blocks, int group,
                            int32_t* sums) {
  const uint8x16_t half = vdupq_n_u8(15);
  const int8x16_t eight = vdupq_n_s8(8);
  int32x4_t total[M][4];
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) total[i][j] = vdupq_n_s32(0);
  }
  for (int first = 0; first < blocks; first += group / 4, multipliers += kPanel) {
    const int last = first + group / 4 < blocks ? first + group / 4 : blocks;
    int32x4_t a[M][4];
#pragma GCC unroll 2
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) a[i][j] = vdupq_n_s32(0);
    }
    for (int block = first; block < last; block += 2, packed += kBlock, rows += 8 * M) {
      int8x16_t x[M], y[M];
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) {
        int32_t one, two;
        std::memcpy(&one, rows + 4 * i, 4);
        std::memcpy(&two, rows + 4 * (M + i), 4);
        x[i] = vreinterpretq_s8_s32(vdupq_n_s32(one));
        y[i] = vreinterpretq_s8_s32(vdupq_n_s32(two));
      }
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const uint8x16_t both = vld1q_u8(packed + 16 * j);
        const int8x16_t low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, half)), eight);
        const int8x16_t high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), eight);
#pragma GCC unroll 2
        for (int i = 0; i < M; ++i) a[i][j] = vdotq_s32(vdotq_s32(a[i][j], low, x[i]), high, y[i]);
      }
    }
    const uint8x16_t by = vld1q_u8(multipliers);
    const uint16x8_t words[2] = {vmovl_u8(vget_low_u8(by)), vmovl_u8(vget_high_u8(by))};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const uint16x4_t four = j % 2 == 0 ? vget_low_u16(words[j / 2]) : vget_high_u16(words[j / 2]);
      const int32x4_t factor = vreinterpretq_s32_u32(vmovl_u16(four));
#pragma GCC unroll 2
      for (int i = 0; i < M; ++i) total[i][j] = vmlaq_s32(total[i][j], a[i][j], factor);
    }
  }
#pragma GCC unroll 2
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) vst1q_s32(sums + kPair * i + 4 * j, total[i][j]);
  }
}

void product_few_dotprod(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks,
                         int group, int32_t* sums) {
  (count == 1 ? few_dotprod<1> : few_dotprod<2>)(packed, multipliers, rows, blocks, group, sums);
}

#if defined(__linux__)
bool has_dotprod() { return (getauxval(AT_HWCAP) & (1UL << 20)) != 0; }                     // HWCAP_ASIMDDP
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) & (1UL << 13)) != 0; }      // HWCAP2_I8MM
#elif defined(__APPLE__)
bool has(const char* feature) {
  int found = 0;
  size_t size = sizeof(found);
  return sysctlbyname(feature, &found, &size, nullptr, 0) == 0 && found != 0;
}
bool has_dotprod() { return has("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && has("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif

const Kernel kI8mm = {"i8mm", has_i8mm, product_i8mm, product_few_dotprod, 2,
                       expand_neon, round_neon, gate_neon, add_neon};
const Kernel kDotprod = {"dotprod", has_dotprod, product_dotprod, product_few_dotprod, 2,
                          expand_neon, round_neon, gate_neon, add_neon};

}  // namespace

const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kI8mm, &kDotprod, &kPortable, nullptr};
  return all;
}

}  // namespace dgemma
#endif
