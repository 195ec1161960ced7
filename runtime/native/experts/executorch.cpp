// The kernel for experts as an operator of ExecuTorch, dgemma::experts.out, registered when the library is loaded.
//
// Arguments: x float32 [..., D], ids int64 [..., K], weights float32 [..., K], the six arrays of dg_experts, hidden, width,
// gate_up_group, down_group, and out float32 [..., D].
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>

#include "../kernels.h"
#include "experts.h"

namespace {

using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

void run(KernelRuntimeContext& context, Span<EValue*> stack) {
  const auto tensor = [&](int i) -> const Tensor& { return stack[i]->toTensor(); };
  const auto number = [&](int i) { return static_cast<int32_t>(stack[i]->toInt()); };
  const auto bytes = [&](int i) { return tensor(i).const_data_ptr<uint8_t>(); };
  const auto floats = [&](int i) { return tensor(i).const_data_ptr<float>(); };
  const Tensor& x = tensor(0);
  const Tensor& ids = tensor(1);
  Tensor& out = stack[13]->toTensor();
  const int64_t chosen = ids.dim() > 0 ? ids.size(ids.dim() - 1) : 0;
  if (x.dim() == 0 || chosen == 0 || x.size(x.dim() - 1) != number(9) || x.numel() / number(9) != ids.numel() / chosen ||
      ids.numel() != tensor(2).numel() || executorch::runtime::resize_tensor(out, x.sizes()) != Error::Ok) {
    ET_LOG(Error, "rows do not fit the experts");
    return context.fail(Error::InvalidArgument);
  }
  const dg_experts layer = {static_cast<int32_t>(tensor(3).size(0)), number(9), number(10), number(11) != 0 ? 4 : 8, number(11),
                            number(12), bytes(3), bytes(4), floats(5), bytes(6), bytes(7), floats(8)};
  const char* wrong = dg_experts_run(&layer, floats(0), ids.const_data_ptr<int64_t>(), floats(2),
                                     x.numel() / number(9), static_cast<int32_t>(chosen), out.mutable_data_ptr<float>(), nullptr,
                                     dgemma::executorch_threads());
  if (wrong != nullptr) {
    ET_LOG(Error, "%s", wrong);
    context.fail(Error::InvalidArgument);
  }
}

const Error registered = dgemma::register_once("dgemma::experts.out", run);

}  // namespace
