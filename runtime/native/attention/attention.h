/* Grouped-query attention of a layer, over a prefix and the rows' own keys and values where they lie: nothing is joined,
 * transposed or kept but one block of scores.
 *
 * Letters: M rows, S slots of the prefix, H heads, K kv heads, d head dim. */
#pragma once
#include <stdint.h>

#include "../parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int64_t rows, slots;
  int32_t heads, kv_heads, dim; /* H a multiple of K */
  const float *q;               /* [M, H, d] */
  const float *old_keys, *old_values; /* [S, K, d] */
  const float *keys, *values;         /* [M, K, d] */
  const float *bias;                  /* [bias_rows, S + M], added to the scores; bias_rows: M, or 1 for all rows */
  int64_t bias_rows;
} dg_attention;

/* softmax(q kᵀ + bias) v with scale 1 → out float32 [M, H·d]. kernel and parallel: as for dg_experts_run. Results do not depend
 * on the number of threads; of different kernels they differ in their last bits. Returns NULL, or what is wrong. */
DG_API const char* dg_attend(const dg_attention* layer, float* out, const char* kernel, const dg_parallel* parallel);

/* Names of the kernels that this processor runs, best first; NULL past the last. */
DG_API const char* dg_attention_kernel(int index);

#ifdef __cplusplus
}
#endif
