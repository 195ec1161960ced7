// What ExecuTorch's forms of the native operators share.
#pragma once
#include <executorch/runtime/kernel/kernel_runtime_context.h>
#include <executorch/runtime/kernel/operator_registry.h>

#include <cstring>

#include "parallel.h"
#include "thread_pool.h"

namespace dgemma {

// ExecuTorch's threads.
inline const dg_parallel* executorch_threads() {
  static const dg_parallel threads = {[](void*, void (*task)(void*, size_t), void* context, size_t count) {
                                        executorch::extension::threadpool::get_threadpool()->run(
                                            [&](size_t i) { task(context, i); }, count);
                                      },
                                      nullptr};
  return &threads;
}

// Once for a process, which a second registration would end: a library of another place may be loaded already.
inline executorch::runtime::Error register_once(const char* name, executorch::runtime::OpFunction run) {
  for (const executorch::runtime::Kernel& kernel : executorch::runtime::get_registered_kernels()) {
    if (kernel.name_ != nullptr && std::strcmp(kernel.name_, name) == 0) return executorch::runtime::Error::Ok;
  }
  return executorch::runtime::register_kernel(executorch::runtime::Kernel(name, run));
}

}  // namespace dgemma
