// The kernel for attention as an operator of ExecuTorch, dgemma::attention.out, registered when the library is loaded.
//
// Arguments, all float32: q [1, M, H, d], keys and values of the prefix [1, S, K, d], keys and values of the rows [1, M, K, d],
// bias [M or 1, S + M], and out [1, M, H·d].
#include <executorch/runtime/core/exec_aten/util/tensor_util.h>

#include "../kernels.h"
#include "attention.h"

namespace {

using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::Span;

void run(KernelRuntimeContext& context, Span<EValue*> stack) {
  const auto tensor = [&](int i) -> const Tensor& { return stack[i]->toTensor(); };
  const auto floats = [&](int i) { return tensor(i).const_data_ptr<float>(); };
  const auto wrong = [&](const char* why) {
    ET_LOG(Error, "%s", why);
    context.fail(Error::InvalidArgument);
  };
  for (int i = 0; i < 6; ++i) {
    if (tensor(i).dim() != (i < 5 ? 4 : 2)) return wrong("an input of the attention has the wrong rank");
  }
  const Tensor &q = tensor(0), &old = tensor(1), &own = tensor(3), &bias = tensor(5);
  const auto alike = [](const Tensor& a, const Tensor& b) { return a.size(1) == b.size(1) && a.size(2) == b.size(2) && a.size(3) == b.size(3); };
  if (q.size(0) != 1 || old.size(0) != 1 || own.size(0) != 1 || !alike(old, tensor(2)) || !alike(own, tensor(4)) ||
      own.size(1) != q.size(1) || own.size(2) != old.size(2) || own.size(3) != q.size(3) || old.size(3) != q.size(3) ||
      bias.size(1) != old.size(1) + q.size(1)) {
    return wrong("shapes of the attention do not agree");
  }
  Tensor& out = stack[6]->toTensor();
  const SizesType shape[] = {1, static_cast<SizesType>(q.size(1)), static_cast<SizesType>(q.size(2) * q.size(3))};
  if (executorch::runtime::resize_tensor(out, {shape, 3}) != Error::Ok) return wrong("the attention's output does not fit");
  const dg_attention layer = {q.size(1), old.size(1), static_cast<int32_t>(q.size(2)), static_cast<int32_t>(old.size(2)),
                              static_cast<int32_t>(q.size(3)), floats(0), floats(1), floats(2), floats(3), floats(4), floats(5),
                              bias.size(0)};
  if (const char* why = dg_attend(&layer, out.mutable_data_ptr<float>(), nullptr, dgemma::executorch_threads())) wrong(why);
}

const Error registered = dgemma::register_once("dgemma::attention.out", run);

}  // namespace
