/* The routed experts of one layer: rows are rounded to 8 bits, multiplied by the integer weights of the experts that were
 * chosen for them, and the experts' outputs are added up in the order of experts.
 *
 * Letters: R rows, K experts of a row, E experts, D hidden, W width of an expert.
 *
 * Results do not depend on the kernel, on the number of threads, or on which rows come together: sums of integers are exact,
 * and every float is made by one sequence of additions, multiplications and divisions. */
#pragma once
#include <stdint.h>

#include "../parallel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Weights as `dgemma.quantize.expert_layout` lays them out, read where they are. Outputs come in panels of 16, inputs in blocks of 4:
 *   8 bits: [panel][inputs/4][16 outputs][4 inputs], signed;
 *   4 bits: [panel][inputs/8][16][4], plus 8; inputs 8b … 8b+3 in the low halves of block b, 8b+4 … 8b+7 in the high ones;
 *   multipliers of 4 bits: uint8 [panel][inputs/group][16];
 *   scales: float32 [panel][16].
 * Panels of gate and up alternate. D is filled up with zeros to a multiple of 8 as inputs and of 32 as outputs, W to one of 16.
 * Integers of 8 bits, and of 4 bits times their multiplier, are at least -127. */
typedef struct {
  int32_t experts, hidden, width, bits;
  int32_t gate_up_group, down_group; /* inputs to a multiplier, multiples of 8; 0 for 8 bits */
  const uint8_t *gate_up, *gate_up_multipliers;
  const float* gate_up_scale;
  const uint8_t *down, *down_multipliers;
  const float* down_scale;
} dg_experts;

/* x float32 [R, D], ids [R, K] below E, weights float32 [R, K] → out float32 [R, D]. A row that holds NaN or infinity gives
 * NaN. kernel: NULL for the best that the processor has, or a name of dg_experts_kernel; parallel: NULL for one thread.
 * Returns NULL, or what is wrong. */
DG_API const char* dg_experts_run(const dg_experts* layer, const float* x, const int64_t* ids, const float* weights,
                                  int64_t rows, int32_t chosen, float* out, const char* kernel, const dg_parallel* parallel);

/* Names of the kernels that this processor runs, best first; NULL past the last. */
DG_API const char* dg_experts_kernel(int index);

/* As a dg_parallel: starts so many threads for each call. For programs without a pool of their own. */
DG_API const char* dg_experts_run_threads(const dg_experts* layer, const float* x, const int64_t* ids, const float* weights,
                                          int64_t rows, int32_t chosen, float* out, const char* kernel, int threads);

#ifdef __cplusplus
}
#endif
