// ExecuTorch's pool of threads: its library is in the wheel, but its header is not.
#pragma once
#include <executorch/runtime/core/function_ref.h>

#include <cstddef>
#include <cstdint>

namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
  void run(runtime::FunctionRef<void(size_t)> task, size_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
