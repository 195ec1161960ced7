// What a kernel is: the loops that a processor's own instructions make faster.
#pragma once
#include <cstddef>
#include <cstdint>

namespace dgemma {

constexpr int kPanel = 16;      // outputs of a panel
constexpr int kPair = 32;       // of the two panels that are multiplied at once
constexpr int kMostRows = 12;   // rows that are multiplied at once
constexpr int kBlock = 64;      // bytes of a block: 16 outputs, 4 inputs

struct Kernel {
  const char* name;
  bool (*runs)();

  // Integers [two panels][blocks][16][4] times rows, which lie as [blocks][rows][4] → sums [rows][32].
  // totals: the sum of each row's integers.
  void (*product)(const int8_t* weights, const int8_t* rows, const int32_t* totals, int count, int blocks, int32_t* sums);

  // The same of one panel of 4-bit integers as they are stored [blocks / 2][16][4] times multipliers [groups][16], for at most
  // `few` rows: with so few, writing 8-bit integers first takes longer than the product itself. Sums of rows are 32 apart.
  void (*product_few)(const uint8_t* packed, const uint8_t* multipliers, const int8_t* rows, int count, int blocks, int group,
                      int32_t* sums);
  int few;

  // One panel of 4-bit integers [blocks / 2][16][4] times multipliers [groups][16] → 8-bit ones [blocks][16][4].
  void (*expand)(const uint8_t* packed, const uint8_t* multipliers, int blocks, int group, int8_t* out);

  // A row [size] → integers [padded] and its unit: x ≈ integers · unit. The rule is that of quantize/activations.py.
  void (*round)(const float* x, int size, int padded, int8_t* out, float* unit);

  // Sums [2][16] of gate and up → gelu(gate) · up [16].
  void (*gate)(const int32_t* sums, float unit, const float* scale, float* out);

  // Adds sums [32] · unit · scale · weight to out [32].
  void (*add)(const int32_t* sums, float unit, const float* scale, float weight, float* out);
};

extern const Kernel kPortable;
const Kernel* const* kernels();  // best first, ends with the portable one, then nullptr

}  // namespace dgemma
