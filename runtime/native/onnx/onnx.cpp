// The operators of quantized mixtures of experts, for ONNX Runtime's RegisterCustomOps: the domain dgemma.native.
#include "onnx.h"

#include <atomic>

extern "C" DG_API dgemma::onnx::Status* RegisterCustomOps(void* options, const dgemma::onnx::ApiBase* base) {
  using namespace dgemma::onnx;
  const Api api = base->get(kVersion);
  if (api == nullptr) return failed(base->get(1), "the native operators need ONNX Runtime 1.20 or later");
  static std::atomic<void*> domain{nullptr};  // one for the process: sessions hold on to it
  if (domain == nullptr) {
    void* made = nullptr;
    if (Status* s = call<Status*>(api, kCreateDomain, "dgemma.native", &made)) return s;
    for (const Op* one : {experts_op(), attention_op()}) {
      if (Status* s = call<Status*>(api, kDomainAdd, made, one)) return s;
    }
    domain = made;
  }
  return call<Status*>(api, kAddDomain, options, domain.load());
}
