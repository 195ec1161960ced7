// What the native operators use of ONNX Runtime's C interface.
//
// The wheel has no headers. The interface is a table of functions to which versions only append, so what is used here is named by
// its place in that table (api version 20 and later: ONNX Runtime 1.20).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../parallel.h"

namespace dgemma::onnx {

constexpr uint32_t kVersion = 20;
enum Place {
  kCreateStatus = 0, kCreateDomain = 26, kDomainAdd = 27, kAddDomain = 28, kTensorData = 51, kDimensionsCount = 61,
  kDimensions = 62, kTensorInfo = 65, kAttributeInt = 86, kInput = 90, kOutput = 91, kReleaseStatus = 93, kReleaseInfo = 99,
  kParallelFor = 274,
};

struct Status;
using Api = void* const*;
struct ApiBase {
  Api (*get)(uint32_t version);
  const char* (*version)();
};

template <typename Result, typename... Arguments>
Result call(Api api, Place place, Arguments... arguments) {
  return reinterpret_cast<Result (*)(Arguments...)>(api[place])(arguments...);
}

inline Status* failed(Api api, const char* why) { return call<Status*>(api, kCreateStatus, 1, why); }

struct Op {  // OrtCustomOp of version 20
  uint32_t version;
  void* (*create)(const Op*, Api, const void*);
  const char* (*name)(const Op*);
  const char* (*provider)(const Op*);
  int (*input_type)(const Op*, size_t);
  size_t (*inputs)(const Op*);
  int (*output_type)(const Op*, size_t);
  size_t (*outputs)(const Op*);
  void (*compute)(void*, void*);
  void (*destroy)(void*);
  int (*input_kind)(const Op*, size_t);
  int (*output_kind)(const Op*, size_t);
  int (*input_memory)(const Op*, size_t);
  int (*variadic_input_least)(const Op*);
  int (*variadic_input_alike)(const Op*);
  int (*variadic_output_least)(const Op*);
  int (*variadic_output_alike)(const Op*);
  Status* (*create_checked)(const Op*, Api, const void*, void**);
  Status* (*compute_checked)(void*, void*);
  Status* (*infer)(const Op*, void*);
  int (*first_version)(const Op*);
  int (*last_version)(const Op*);
  void* rest[4];  // inputs that become outputs, and views: none
};

constexpr int kFloat = 1, kUint8 = 2, kInt64 = 7;  // types of tensors

struct Tensor {
  void* data = nullptr;
  std::vector<int64_t> shape;
  // Of its last dimension.
  int64_t rows() const {
    int64_t count = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) count *= shape[i];
    return count;
  }
};

inline Status* read(Api api, void* context, size_t index, Tensor* to) {
  void *value, *info;
  size_t rank = 0;
  if (Status* s = call<Status*>(api, kInput, const_cast<const void*>(context), index, &value)) return s;
  if (Status* s = call<Status*>(api, kTensorData, value, &to->data)) return s;
  if (Status* s = call<Status*>(api, kTensorInfo, value, &info)) return s;
  Status* s = call<Status*>(api, kDimensionsCount, info, &rank);
  to->shape.resize(rank);
  if (s == nullptr) s = call<Status*>(api, kDimensions, info, to->shape.data(), rank);
  call<void>(api, kReleaseInfo, info);
  return s;
}

// The threads of a node's session, as a dg_parallel; `status` is what went wrong, or nullptr.
class Threads {
 public:
  Threads(Api api, void* context) : api_(api), context_(context), parallel_{spread, this} {}
  const dg_parallel* parallel() const { return &parallel_; }
  Status* status = nullptr;

 private:
  static void spread(void* self, void (*task)(void*, size_t), void* with, size_t count) {
    Threads& t = *static_cast<Threads*>(self);
    Status* s = call<Status*>(t.api_, kParallelFor, const_cast<const void*>(t.context_), task, count, size_t{0}, with);
    if (s == nullptr) return;
    if (t.status != nullptr) call<void>(t.api_, kReleaseStatus, t.status);
    t.status = s;
  }

  Api api_;
  void* context_;
  dg_parallel parallel_;
};

// An operator of a class that is made of an Api and has kName, kInputs, kTypes, configure(info) and run(context).
template <typename Kernel>
const Op* op() {
  static const Op made = [] {
    constexpr auto zero = [](const Op*, size_t) { return 0; };
    constexpr auto one = [](const Op*) { return 1; };
    Op o = {};
    o.version = kVersion;
    o.name = [](const Op*) { return Kernel::kName; };
    o.provider = [](const Op*) -> const char* { return nullptr; };
    o.input_type = [](const Op*, size_t index) { return Kernel::kTypes[index]; };
    o.inputs = [](const Op*) { return Kernel::kInputs; };
    o.output_type = [](const Op*, size_t) { return kFloat; };
    o.outputs = [](const Op*) { return size_t{1}; };
    o.destroy = [](void* self) { delete static_cast<Kernel*>(self); };
    o.input_kind = o.output_kind = o.input_memory = zero;
    o.variadic_input_least = o.variadic_input_alike = o.variadic_output_least = o.variadic_output_alike = one;
    o.create_checked = [](const Op*, Api api, const void* info, void** out) -> Status* {
      auto made = std::make_unique<Kernel>(api);
      if (Status* s = made->configure(info)) return s;
      *out = made.release();
      return nullptr;
    };
    o.compute_checked = [](void* self, void* context) { return static_cast<Kernel*>(self)->run(context); };
    o.first_version = one;
    o.last_version = [](const Op*) { return 0x7fffffff; };
    return o;
  }();
  return &made;
}

const Op* experts_op();
const Op* attention_op();

}  // namespace dgemma::onnx
