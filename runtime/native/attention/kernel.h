// What a kernel of attention is: the loops that a processor's own instructions make faster.
#pragma once
#include <cstddef>

namespace dgemma::attention {

constexpr int kKeys = 64;     // of a block
constexpr int kFew = 8;       // rows that share a kv head and are taken where keys and values lie
constexpr int kTogether = 4;  // values that are added up before a sum is written

struct Kernel {
  const char* name;
  bool (*runs)();
  int panel;  // columns that are multiplied at once

  // Rows [count, depth], a row every `step`, times a panel [depth][panel] → out, a row every `out_step`; added to it or not.
  void (*product)(const float* rows, size_t step, int count, const float* panel, int depth, float* out, size_t out_step, bool add);

  // At most kFew rows of each kv head, [kv_heads][count][width], and keys or values where they lie, each [kv_heads][width], with
  // a width that is a multiple of 16: scores [kv_heads][count][kKeys], or values weighted by such scores, added to out
  // [kv_heads][count][width]. Values are read kTogether at a time, so there must be some behind the last, of weight 0.
  void (*dots)(const float* rows, int count, int kv_heads, int width, const float* const* keys, int keys_count, float* scores);
  void (*mix)(const float* weights, int count, int kv_heads, int width, const float* const* values, int values_count, float* out);

  // Scores [kKeys] of a block, of which the first `count` are keys', plus bias [count] → their exponentials less the largest
  // score so far, `most`; those of no key are 0. What was summed up before must be multiplied by the returned factor.
  float (*exponentials)(float* scores, const float* bias, int count, float* most, float* sum);

  // Multiplies values [size], a multiple of 16.
  void (*scale)(float* values, int size, float by);
};

extern const Kernel kPortable;
const Kernel* const* kernels();  // best first, ends with the portable one, then nullptr

}  // namespace dgemma::attention
