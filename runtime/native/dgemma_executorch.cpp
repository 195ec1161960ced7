// See the header. Built against the headers and libraries of the executorch wheel; links nothing of torch.
#include "dgemma_executorch.h"

#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#if !defined(_WIN32)
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "thread_pool.h"

namespace {

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::MmapDataLoader;
using executorch::extension::TensorPtr;
using executorch::extension::threadpool::get_threadpool;
using executorch::runtime::BackendOptions;
using executorch::runtime::DataLoader;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::FreeableBuffer;
using executorch::runtime::HierarchicalAllocator;
using executorch::runtime::LoadBackendOptionsMap;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::Span;
using Module = executorch::extension::module::Module;

thread_local std::string failure;

// What ExecuTorch logs while one of our calls runs becomes part of its error; at other times it goes where it went before.
std::mutex log_mutex;
int listening = 0;
std::string logged;
pal_emit_log_message_method emit_before = nullptr;

void emit(et_timestamp_t time, et_pal_log_level_t level, const char* file, const char* function, size_t line,
          const char* message, size_t length) {
  {
    const std::lock_guard<std::mutex> lock(log_mutex);
    if (listening > 0) {
      if (level == kError || level == kFatal) logged.assign(message, length);
      if (level != kFatal) return;  // the process ends after one, so it must be seen
    }
  }
  if (emit_before != nullptr) emit_before(time, level, file, function, line, message, length);
}

struct Listening {
  Listening() {
    const std::lock_guard<std::mutex> lock(log_mutex);
    static const bool registered = [] {
      executorch::runtime::pal_init();
      emit_before = executorch::runtime::get_pal_impl()->emit_log_message;
      return executorch::runtime::register_pal(executorch::runtime::PalImpl::create(emit, __FILE__));
    }();
    (void)registered;
    if (listening++ == 0) logged.clear();
  }
  ~Listening() {
    const std::lock_guard<std::mutex> lock(log_mutex);
    --listening;
  }
};

int fail(const std::string& what, Error error = Error::Ok) {
  failure = what;
  if (error != Error::Ok) {
    const std::lock_guard<std::mutex> lock(log_mutex);
    failure += std::string(": ") + executorch::runtime::to_string(error);
    if (!logged.empty()) failure += " (" + logged + ")";
  }
  for (char& c : failure) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return -1;
}

// Nothing may be thrown into a caller that is not C++.
template <typename Result, typename Body>
Result guarded(Result otherwise, Body body) {
  try {
    const Listening listen;
    return body();
  } catch (const std::exception& error) {
    fail(error.what());
  } catch (...) {
    fail("unknown C++ exception");
  }
  return otherwise;
}

// XNNPACK's weight cache frees every constant once weights are packed, those too that its kernels go on reading in place. So
// what was mapped stays mapped for as long as the model; freeing only lets its pages go, and they come back when they are read.
class Segments {
 public:
  FreeableBuffer keep(FreeableBuffer&& mapped) {
    const void* data = mapped.data();
    const size_t size = mapped.size();
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(std::move(mapped));
    return FreeableBuffer(data, size, let_go);
  }

 private:
  static void let_go(void*, void* data, size_t size) {
#if !defined(_WIN32)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), start = reinterpret_cast<uintptr_t>(data);
    const uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#endif
  }

  std::mutex mutex_;
  std::vector<FreeableBuffer> kept_;
};

class Loader final : public DataLoader {
 public:
  Loader(MmapDataLoader&& file, Segments& segments) : file_(std::move(file)), segments_(segments) {}

  Result<FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo& info) const override {
    auto mapped = file_.load(offset, size, info);
    if (!mapped.ok()) return mapped.error();
    return segments_.keep(std::move(*mapped));
  }
  Result<size_t> size() const override { return file_.size(); }
  Error load_into(size_t offset, size_t size, const SegmentInfo& info, void* to) const override {
    return file_.load_into(offset, size, info, to);
  }

 private:
  MmapDataLoader file_;
  Segments& segments_;
};

bool describe(const executorch::aten::Tensor& tensor, dg_tensor* to) {
  if (tensor.dim() > DG_MAX_RANK) return false;
  to->data = tensor.mutable_data_ptr();
  to->dtype = static_cast<int32_t>(tensor.scalar_type());
  to->rank = static_cast<int32_t>(tensor.dim());
  for (int i = 0; i < to->rank; ++i) to->shape[i] = static_cast<int32_t>(tensor.size(i));
  return true;
}

// Memory for what methods compute on the way, shared by all methods of a model, for only one runs at a time. Fresh memory of
// the system costs nothing until it is written to, so it is as large as the largest method needs, used or not.
class Arenas {
 public:
  Error plan(Module& module) {
    auto names = module.method_names();
    if (!names.ok()) return names.error();
    for (const std::string& name : *names) {
      auto meta = module.method_meta(name);
      if (!meta.ok()) return meta.error();
      sizes_.resize(std::max(sizes_.size(), meta->num_memory_planned_buffers()));
      for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
        auto size = meta->memory_planned_buffer_size(i);
        if (!size.ok()) return size.error();
        sizes_[i] = std::max(sizes_[i], static_cast<size_t>(*size));
      }
    }
    for (const size_t size : sizes_) {
      memory_.emplace_back(static_cast<uint8_t*>(std::calloc(size + 1, 1)), std::free);
      if (memory_.back() == nullptr) return Error::MemoryAllocationFailed;
      spans_.emplace_back(memory_.back().get(), size);
    }
    return Error::Ok;
  }

  // For one method; lives as long as the arenas.
  HierarchicalAllocator* allocator() {
    return &allocators_.emplace_back(Span<Span<uint8_t>>(spans_.data(), spans_.size()));
  }

 private:
  std::vector<size_t> sizes_;
  std::vector<std::unique_ptr<uint8_t, decltype(&std::free)>> memory_;
  std::vector<Span<uint8_t>> spans_;
  std::deque<HierarchicalAllocator> allocators_;
};

}  // namespace

struct dg_model {
  Segments segments;  // this and the arenas outlive the module
  Arenas arenas;
  std::unique_ptr<Module> module;
};

extern "C" {

const char* dg_error(void) { return failure.c_str(); }

int dg_threads(void) {
  return guarded<int>(-1, [] { return static_cast<int>(get_threadpool()->get_thread_count()); });
}

dg_model* dg_open(const char* path, int threads, const char* packed) {
  return guarded<dg_model*>(nullptr, [&]() -> dg_model* {
    // XNNPACK takes a weight for one it knows by its name in the program and the path; models must not share a path. This one
    // cannot be opened, so that weights are packed into memory.
    static std::atomic<int> models{0};
    const std::string place = packed != nullptr ? packed : "/dev/null/" + std::to_string(models++);
    if (place.size() >= executorch::runtime::kMaxOptionValueLength) {
      fail("the path of packed weights is too long: " + place);
      return nullptr;
    }
    if (threads > 0 && static_cast<size_t>(threads) != get_threadpool()->get_thread_count()) {
      get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
    }
    auto model = std::make_unique<dg_model>();
    auto file = MmapDataLoader::from(path, MmapDataLoader::MlockConfig::NoMlock);
    if (!file.ok()) {
      fail("cannot open the file", file.error());
      return nullptr;
    }
    model->module = std::make_unique<Module>(std::make_unique<Loader>(std::move(*file), model->segments));
    BackendOptions<2> options;  // the module keeps a copy
    LoadBackendOptionsMap backends;
    Error error = options.set_option("weight_cache_enabled", true);
    if (error == Error::Ok) error = options.set_option("packed_cache_path", place.c_str());
    if (error == Error::Ok) error = backends.set_options("XnnpackBackend", options.view());
    if (error == Error::Ok) error = model->module->load(backends, Program::Verification::InternalConsistency);
    if (error == Error::Ok) error = model->arenas.plan(*model->module);
    if (error != Error::Ok) {
      fail("cannot open the program", error);
      return nullptr;
    }
    return model.release();
  });
}

void dg_close(dg_model* model) {
  guarded<int>(0, [&] {
    delete model;
    return 0;
  });
}

int dg_has(dg_model* model, const char* method) {
  return guarded<int>(-1, [&] {
    auto names = model->module->method_names();
    return names.ok() ? static_cast<int>(names->count(method)) : fail("cannot list the methods", names.error());
  });
}

int dg_load(dg_model* model, const char* method) {
  return guarded<int>(-1, [&] {
    if (model->module->is_method_loaded(method)) return 0;
    const Error error = model->module->load_method(method, model->arenas.allocator());
    return error == Error::Ok ? 0 : fail(std::string("cannot load method ") + method, error);
  });
}

int dg_input(dg_model* model, const char* method, int index, dg_tensor* input) {
  return guarded<int>(-1, [&] {
    auto meta = model->module->method_meta(method);
    if (!meta.ok()) return fail(std::string("no method ") + method, meta.error());
    const int count = static_cast<int>(meta->num_inputs());
    if (index < 0 || index >= count) return fail("there is no such input");
    auto tensor = meta->input_tensor_meta(index);
    if (!tensor.ok()) return fail("the input is no tensor", tensor.error());
    if (tensor->sizes().size() > DG_MAX_RANK) return fail("the input has too many dimensions");
    *input = dg_tensor{};
    input->dtype = static_cast<int32_t>(tensor->scalar_type());
    for (const int32_t size : tensor->sizes()) input->shape[input->rank++] = size;
    return count;
  });
}

int dg_run(dg_model* model, const char* method, const dg_tensor* inputs, int count, dg_tensor* outputs, int capacity) {
  return guarded<int>(-1, [&] {
    std::vector<TensorPtr> tensors;  // own the shapes for as long as the method runs
    std::vector<EValue> values;
    for (int i = 0; i < count; ++i) {
      const dg_tensor& t = inputs[i];
      if (t.rank < 0 || t.rank > DG_MAX_RANK) return fail("an input has too many dimensions");
      tensors.push_back(from_blob(t.data, {t.shape, t.shape + t.rank}, static_cast<ScalarType>(t.dtype)));
      values.emplace_back(*tensors.back());
    }
    auto found = model->module->execute(method, values);
    if (!found.ok()) return fail(std::string("method ") + method + " failed", found.error());
    for (int i = 0; i < static_cast<int>(found->size()) && i < capacity; ++i) {
      if (!(*found)[i].isTensor() || !describe((*found)[i].toTensor(), &outputs[i])) return fail("an output is no tensor");
    }
    return static_cast<int>(found->size());
  });
}

int dg_unlock(const char* packed) {
#if defined(_WIN32)
  (void)packed;
  return 0;  // XNNPACK uses no file there
#else
  struct stat wanted, found;
  if (stat(packed, &wanted) != 0) return fail(std::string("cannot find ") + packed);
  int released = 0;
  const long most = sysconf(_SC_OPEN_MAX);
  for (int fd = 3; fd < (most > 0 && most < 65536 ? most : 65536); ++fd) {
    if (fstat(fd, &found) != 0 || found.st_dev != wanted.st_dev || found.st_ino != wanted.st_ino) continue;
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && flock(fd, LOCK_UN) == 0) ++released;
  }
  return released;
#endif
}

}  // extern "C"
