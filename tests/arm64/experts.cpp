// Runs the kernels for experts on what a file holds, and writes what each of them gives.
//
// experts IN OUT: IN is the sizes of dg_experts, rows and chosen (8 int32), then 9 arrays, each behind its size in bytes (int64):
// the six of dg_experts, x, ids and weights. OUT is a line with the kernel's name, then its output, for each kernel.
#include <cstdio>
#include <vector>

#include "experts.h"

int main(int, char** names) {
  std::FILE* in = std::fopen(names[1], "rb");
  std::FILE* out = std::fopen(names[2], "wb");
  if (in == nullptr || out == nullptr) return 2;
  int32_t sizes[8];
  if (std::fread(sizes, 4, 8, in) != 8) return 2;
  std::vector<std::vector<uint8_t>> arrays(9);
  for (auto& array : arrays) {
    int64_t size;
    if (std::fread(&size, 8, 1, in) != 1) return 2;
    array.resize(size);
    if (std::fread(array.data(), 1, size, in) != static_cast<size_t>(size)) return 2;
  }
  const auto floats = [&](int i) { return reinterpret_cast<const float*>(arrays[i].data()); };
  const dg_experts layer = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], arrays[0].data(), arrays[1].data(),
                            floats(2), arrays[3].data(), arrays[4].data(), floats(5)};
  std::vector<float> y(static_cast<size_t>(sizes[6]) * layer.hidden);
  for (int i = 0; const char* kernel = dg_experts_kernel(i); ++i) {
    const char* wrong = dg_experts_run_threads(&layer, floats(6), reinterpret_cast<const int64_t*>(arrays[7].data()), floats(8),
                                               sizes[6], sizes[7], y.data(), kernel, 2);
    if (wrong != nullptr) {
      std::fprintf(stderr, "%s\n", wrong);
      return 1;
    }
    std::fprintf(out, "%s\n", kernel);
    std::fwrite(y.data(), 4, y.size(), out);
  }
  return std::fclose(out) == 0 ? 0 : 2;
}
