// The kernel that runs everywhere.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernel.h"

#define DG_SET portable
#define DG_TARGET
#define DG_LANES 4
#define DG_WIDE 2
#define DG_FMA(a, b, c) ((a) * (b) + (c))

namespace dgemma::attention {
namespace {
#include "kernel.inc"
bool always() { return true; }
}  // namespace

const Kernel kPortable = DG_KERNEL("portable", always);

#if !defined(__x86_64__) && !defined(__aarch64__)
const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kPortable, nullptr};
  return all;
}
#endif

}  // namespace dgemma::attention
