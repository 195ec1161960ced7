// Runs the kernels for attention on what a file holds, and writes what each of them gives.
//
// attention IN OUT: IN is rows, slots, heads, kv heads, head dim and rows of the bias (6 int32), then q, keys and values of the
// prefix and of the rows, and the bias (float32). OUT is a line with the kernel's name, then its output, for each kernel.
#include <cstdio>
#include <vector>

#include "attention.h"

int main(int, char** names) {
  std::FILE* in = std::fopen(names[1], "rb");
  std::FILE* out = std::fopen(names[2], "wb");
  if (in == nullptr || out == nullptr) return 2;
  int32_t sizes[6];
  if (std::fread(sizes, 4, 6, in) != 6) return 2;
  const size_t row = static_cast<size_t>(sizes[2]) * sizes[4], key = static_cast<size_t>(sizes[3]) * sizes[4];
  const size_t counts[6] = {sizes[0] * row, sizes[1] * key, sizes[1] * key, sizes[0] * key, sizes[0] * key,
                            static_cast<size_t>(sizes[5]) * (sizes[0] + sizes[1])};
  std::vector<float> arrays[6];
  for (int i = 0; i < 6; ++i) {
    arrays[i].resize(counts[i]);
    if (std::fread(arrays[i].data(), 4, counts[i], in) != counts[i]) return 2;
  }
  const dg_attention layer = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], arrays[0].data(), arrays[1].data(),
                              arrays[2].data(), arrays[3].data(), arrays[4].data(), arrays[5].data(), sizes[5]};
  std::vector<float> y(counts[0]);
  for (int i = 0; const char* kernel = dg_attention_kernel(i); ++i) {
    if (const char* wrong = dg_attend(&layer, y.data(), kernel, nullptr)) {
      std::fprintf(stderr, "%s\n", wrong);
      return 1;
    }
    std::fprintf(out, "%s\n", kernel);
    std::fwrite(y.data(), 4, y.size(), out);
  }
  return std::fclose(out) == 0 ? 0 : 2;
}
