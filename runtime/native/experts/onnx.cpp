// The kernel for experts as an operator of ONNX Runtime: Experts of the domain dgemma.native, for RegisterCustomOps.
//
// ONNX Runtime's wheel has no headers. Its C interface is a table of functions to which versions only append, so what is used
// here is named by its place in that table (api version 20 and later: ONNX Runtime 1.20).
//
// Inputs: x float32 [..., D], ids int64 [..., K], weights float32 [..., K], then the six arrays of dg_experts, of which
// multipliers are empty for 8 bits. Attributes: hidden, width, gate_up_group, down_group.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "experts.h"

namespace {

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

Status* failed(Api api, const char* why) { return call<Status*>(api, kCreateStatus, 1, why); }

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

constexpr size_t kInputs = 9;
constexpr int kFloat = 1, kUint8 = 2, kInt64 = 7;

struct Tensor {
  void* data = nullptr;
  std::vector<int64_t> shape;
  int64_t rows() const {
    int64_t count = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) count *= shape[i];
    return count;
  }
};

Status* read(Api api, void* context, size_t index, Tensor* to) {
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

class Experts {
 public:
  explicit Experts(Api api) : api_(api) {}

  Status* configure(const void* info) {
    const char* names[4] = {"hidden", "width", "gate_up_group", "down_group"};
    for (int i = 0; i < 4; ++i) {
      if (Status* s = call<Status*>(api_, kAttributeInt, info, names[i], &attributes_[i])) return s;
    }
    return nullptr;
  }

  Status* run(void* context) {
    Tensor in[kInputs];
    for (size_t i = 0; i < kInputs; ++i) {
      if (Status* s = read(api_, context, i, &in[i])) return s;
      if (in[i].shape.empty()) return failed(api_, "Experts: an input is a scalar");
    }
    if (in[0].shape.back() != attributes_[0]) return failed(api_, "Experts: rows are not as wide as the experts");
    if (in[0].rows() != in[1].rows() || in[1].shape != in[2].shape) return failed(api_, "Experts: rows do not agree");
    void *value, *out;
    const std::vector<int64_t>& shape = in[0].shape;
    if (Status* s = call<Status*>(api_, kOutput, context, size_t{0}, shape.data(), shape.size(), &value)) return s;
    if (Status* s = call<Status*>(api_, kTensorData, value, &out)) return s;
    const auto bytes = [&](int i) { return static_cast<const uint8_t*>(in[i].data); };
    const auto floats = [&](int i) { return static_cast<const float*>(in[i].data); };
    const dg_experts layer = {
        static_cast<int32_t>(in[3].shape[0]), static_cast<int32_t>(shape.back()), static_cast<int32_t>(attributes_[1]),
        attributes_[2] != 0 ? 4 : 8, static_cast<int32_t>(attributes_[2]), static_cast<int32_t>(attributes_[3]), bytes(3),
        bytes(4), floats(5), bytes(6), bytes(7), floats(8)};
    Run run{this, context, nullptr};
    const dg_parallel parallel = {spread, &run};
    const char* wrong =
        dg_experts_run(&layer, floats(0), static_cast<const int64_t*>(in[1].data), floats(2), in[0].rows(),
                       static_cast<int32_t>(in[1].shape.back()), static_cast<float*>(out), nullptr, &parallel);
    if (run.status != nullptr) return run.status;
    return wrong != nullptr ? failed(api_, wrong) : nullptr;
  }

 private:
  struct Run {
    Experts* op;
    void* context;
    Status* status;
  };

  static void spread(void* self, void (*task)(void*, size_t), void* with, size_t count) {
    Run& run = *static_cast<Run*>(self);
    Status* s = call<Status*>(run.op->api_, kParallelFor, const_cast<const void*>(run.context), task, count, size_t{0}, with);
    if (s == nullptr) return;
    if (run.status != nullptr) call<void>(run.op->api_, kReleaseStatus, run.status);
    run.status = s;
  }

  Api api_;
  int64_t attributes_[4] = {};
};

int type(const Op*, size_t index) {
  static const int types[kInputs] = {kFloat, kInt64, kFloat, kUint8, kUint8, kFloat, kUint8, kUint8, kFloat};
  return types[index];
}
int zero(const Op*, size_t) { return 0; }
int one(const Op*) { return 1; }

const Op* op() {
  static const Op made = [] {
    Op o = {};
    o.version = kVersion;
    o.name = [](const Op*) { return "Experts"; };
    o.provider = [](const Op*) -> const char* { return nullptr; };
    o.input_type = type;
    o.inputs = [](const Op*) { return kInputs; };
    o.output_type = [](const Op*, size_t) { return kFloat; };
    o.outputs = [](const Op*) { return size_t{1}; };
    o.destroy = [](void* self) { delete static_cast<Experts*>(self); };
    o.input_kind = o.output_kind = o.input_memory = zero;
    o.variadic_input_least = o.variadic_input_alike = o.variadic_output_least = o.variadic_output_alike = one;
    o.create_checked = [](const Op*, Api api, const void* info, void** out) -> Status* {
      auto made = std::make_unique<Experts>(api);
      if (Status* s = made->configure(info)) return s;
      *out = made.release();
      return nullptr;
    };
    o.compute_checked = [](void* self, void* context) { return static_cast<Experts*>(self)->run(context); };
    o.first_version = one;
    o.last_version = [](const Op*) { return 0x7fffffff; };
    return o;
  }();
  return &made;
}

}  // namespace

extern "C" DG_EXPERTS_API Status* RegisterCustomOps(void* options, const ApiBase* base) {
  const Api api = base->get(kVersion);
  if (api == nullptr) return failed(base->get(1), "Experts needs ONNX Runtime 1.20 or later");
  static std::atomic<void*> domain{nullptr};  // one for the process: sessions hold on to it
  if (domain == nullptr) {
    void* made = nullptr;
    if (Status* s = call<Status*>(api, kCreateDomain, "dgemma.native", &made)) return s;
    if (Status* s = call<Status*>(api, kDomainAdd, made, op())) return s;
    domain = made;
  }
  return call<Status*>(api, kAddDomain, options, domain.load());
}
