// The kernel that runs everywhere, and that all others must equal.
#include "lanes.h"

namespace dgemma {
namespace {

DG_LANES(portable, 4, )

void product_portable(const int8_t* weights, const int8_t* rows, const int32_t*, int count, int blocks, int32_t* sums) {
  std::memset(sums, 0, static_cast<size_t>(count) * kPair * sizeof(int32_t));
  for (int panel = 0; panel < 2; ++panel, weights += static_cast<size_t>(blocks) * kBlock) {
    for (int block = 0; block < blocks; ++block) {
      const int8_t* w = weights + static_cast<size_t>(block) * kBlock;
      for (int row = 0; row < count; ++row) {
        const int8_t* a = rows + (static_cast<size_t>(block) * count + row) * 4;
        int32_t* sum = sums + row * kPair + panel * kPanel;
        for (int o = 0; o < kPanel; ++o) {
          sum[o] += w[4 * o] * a[0] + w[4 * o + 1] * a[1] + w[4 * o + 2] * a[2] + w[4 * o + 3] * a[3];
        }
      }
    }
  }
}

void few_portable(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks, int group,
                  int32_t* sums) {
  for (int row = 0; row < count; ++row) std::memset(sums + row * kPair, 0, kPanel * sizeof(int32_t));
  for (int block = 0; block < blocks; block += 2, packed += kBlock) {
    const uint8_t* multiplier = multipliers + 4 * block / group * kPanel;
    for (int row = 0; row < count; ++row) {
      const int8_t *low = rows + (static_cast<size_t>(block) * count + row) * 4, *high = low + 4 * count;
      int32_t* sum = sums + row * kPair;
      for (int o = 0; o < kPanel; ++o) {
        int32_t part = 0;
        for (int i = 0; i < 4; ++i) {
          const int both = packed[4 * o + i];
          part += ((both & 15) - 8) * low[i] + ((both >> 4) - 8) * high[i];
        }
        sum[o] += part * multiplier[o];
      }
    }
  }
}

bool always() { return true; }

}  // namespace

const Kernel kPortable = {"portable", always, product_portable, few_portable, 2,
                         expand_portable, round_portable, gate_portable, add_portable};

#if !defined(__x86_64__) && !defined(__aarch64__)
const Kernel* const* kernels() {
  static const Kernel* const all[] = {&kPortable, nullptr};
  return all;
}
#endif

}  // namespace dgemma
