// Kernels of x86-64: AVX-512, and AVX2 with fused multiply-adds.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel.h"

namespace dgemma::attention {
namespace {

#define DG_SET avx512
#define DG_TARGET __attribute__((target("avx512f")))
#define DG_LANES 16
#define DG_WIDE 4
#define DG_FMA(a, b, c) ((F)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#include "kernel.inc"
const Kernel kAvx512 = DG_KERNEL("avx512", [] { return __builtin_cpu_supports("avx512f") != 0; });
#undef DG_SET
#undef DG_TARGET
#undef DG_LANES
#undef DG_WIDE
#undef DG_FMA
#undef DG_KERNEL

#define DG_SET avx2
#define DG_TARGET __attribute__((target("avx2,fma")))
#define DG_LANES 8
#define DG_WIDE 2
#define DG_FMA(a, b, c) ((F)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#include "kernel.inc"
const Kernel kAvx2 = DG_KERNEL("avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); });

}  // namespace

const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kAvx512, &kAvx2, &kPortable, nullptr};
  return all;
}

}  // namespace dgemma::attention
#endif
