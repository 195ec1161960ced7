// The kernel for experts as an operator of ONNX Runtime: Experts of the domain dgemma.native.
//
// Inputs: x float32 [..., D], ids int64 [..., K], weights float32 [..., K], then the six arrays of dg_experts, of which
// multipliers are empty for 8 bits. Attributes: hidden, width, gate_up_group, down_group.
#include "../onnx/onnx.h"
#include "experts.h"

namespace dgemma::onnx {
namespace {

class Experts {
 public:
  static constexpr const char* kName = "Experts";
  static constexpr size_t kInputs = 9;
  static constexpr int kTypes[kInputs] = {kFloat, kInt64, kFloat, kUint8, kUint8, kFloat, kUint8, kUint8, kFloat};

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
    Threads threads(api_, context);
    const char* wrong =
        dg_experts_run(&layer, floats(0), static_cast<const int64_t*>(in[1].data), floats(2), in[0].rows(),
                       static_cast<int32_t>(in[1].shape.back()), static_cast<float*>(out), nullptr, threads.parallel());
    if (threads.status != nullptr) return threads.status;
    return wrong != nullptr ? failed(api_, wrong) : nullptr;
  }

 private:
  Api api_;
  int64_t attributes_[4] = {};
};

}  // namespace

const Op* experts_op() { return op<Experts>(); }

}  // namespace dgemma::onnx
