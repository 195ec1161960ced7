// The kernel for attention as an operator of ONNX Runtime: Attention of the domain dgemma.native.
//
// Inputs, all float32: q [1, M, H, d], keys and values of the prefix [1, S, K, d], keys and values of the rows [1, M, K, d], bias
// [M or 1, S + M]. Output: [1, M, H·d].
#include "../onnx/onnx.h"
#include "attention.h"

namespace dgemma::onnx {
namespace {

class Attention {
 public:
  static constexpr const char* kName = "Attention";
  static constexpr size_t kInputs = 6;
  static constexpr int kTypes[kInputs] = {kFloat, kFloat, kFloat, kFloat, kFloat, kFloat};

  explicit Attention(Api api) : api_(api) {}

  Status* configure(const void*) { return nullptr; }

  Status* run(void* context) {
    Tensor in[kInputs];
    for (size_t i = 0; i < kInputs; ++i) {
      if (Status* s = read(api_, context, i, &in[i])) return s;
      if (in[i].shape.size() != (i < 5 ? 4 : 2)) return failed(api_, "Attention: an input has the wrong rank");
    }
    const std::vector<int64_t>&q = in[0].shape, &old = in[1].shape, &own = in[3].shape;
    if (q[0] != 1 || old[0] != 1 || own[0] != 1 || in[2].shape != old || in[4].shape != own || own[1] != q[1] ||
        own[2] != old[2] || own[3] != q[3] || old[3] != q[3] || in[5].shape[1] != old[1] + q[1]) {
      return failed(api_, "Attention: shapes do not agree");
    }
    const int64_t shape[] = {1, q[1], q[2] * q[3]};
    void *value, *out;
    if (Status* s = call<Status*>(api_, kOutput, context, size_t{0}, shape, size_t{3}, &value)) return s;
    if (Status* s = call<Status*>(api_, kTensorData, value, &out)) return s;
    const auto floats = [&](int i) { return static_cast<const float*>(in[i].data); };
    const dg_attention layer = {q[1], old[1], static_cast<int32_t>(q[2]), static_cast<int32_t>(old[2]), static_cast<int32_t>(q[3]),
                                floats(0), floats(1), floats(2), floats(3), floats(4), floats(5), in[5].shape[0]};
    Threads threads(api_, context);
    const char* wrong = dg_attend(&layer, static_cast<float*>(out), nullptr, threads.parallel());
    if (threads.status != nullptr) return threads.status;
    return wrong != nullptr ? failed(api_, wrong) : nullptr;
  }

 private:
  Api api_;
};

}  // namespace

const Op* attention_op() { return op<Attention>(); }

}  // namespace dgemma::onnx
