// The kernel of ARM64, which always has fused multiply-adds.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel.h"

#define DG_SET neon
#define DG_TARGET
#define DG_LANES 4
#define DG_WIDE 4
#define DG_FMA(a, b, c) ((F)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))

namespace dgemma::attention {
namespace {
#include "kernel.inc"
const Kernel kNeon = DG_KERNEL("neon", [] { return true; });
}  // namespace

const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kNeon, &kPortable, nullptr};
  return all;
}

}  // namespace dgemma::attention
#endif
