// The kernels of an operator: structs that begin with a name and whether this processor runs them, best first, nullptr last.
#pragma once
#include <cstring>

namespace dgemma {

// The best kernel that this processor runs, or the one of that name; nullptr where there is none.
template <typename Kernel>
const Kernel* find_kernel(const Kernel* const* kernels, const char* name) {
  for (; *kernels != nullptr; ++kernels) {
    if ((name == nullptr || std::strcmp(name, (*kernels)->name) == 0) && (*kernels)->runs()) return *kernels;
  }
  return nullptr;
}

// The name of the kernel at a place among those that this processor runs; nullptr past the last.
template <typename Kernel>
const char* kernel_name(const Kernel* const* kernels, int index) {
  for (; *kernels != nullptr; ++kernels) {
    if ((*kernels)->runs() && index-- == 0) return (*kernels)->name;
  }
  return nullptr;
}

}  // namespace dgemma
