// dgemma_generate BUNDLE 2,17,45 [SEED [MOST]]: prints the tokens that `dgemma run --loop graph --raw --prompt-ids` commits.
#include <cstdio>

#include "../dgemma_executorch.h"
#include "manifest.h"
#include "noise.h"

static void check(bool good, const char* what) {
  if (!good) std::fprintf(stderr, "error: %s: %s\n", what, dg_error()), std::exit(2);
}

int main(int argc, char** argv) {
  if (argc < 3) return std::fprintf(stderr, "usage: %s BUNDLE IDS [SEED [MOST]]\n", argv[0]), 2;
  const std::string bundle = argv[1];
  const Ids vocabulary = setting(bundle, "vocab_size"), stops = setting(bundle, "eos_token_ids");
  const uint64_t seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  dg_model* model = dg_open((bundle + "/executorch/model.pte").c_str(), 0, nullptr);
  check(model && dg_load(model, "encode") == 0 && dg_load(model, "generate") == 0 && !vocabulary.empty(), argv[1]);
  dg_tensor encode[256], in[256], out[256];  // three and nine inputs, then keys and values of each layer
  const int own = 9, count = dg_input(model, "generate", 0, in), caches = count - own;
  check(count <= 256, "too many layers");
  for (int i = 0; i < 3 + caches; ++i) dg_input(model, "encode", i, &encode[i]);
  for (int i = 0; i < count; ++i) dg_input(model, "generate", i, &in[i]);
  const int chunk = encode[0].shape[1], n = in[0].shape[1], context = in[own].shape[1], steps = in[1].shape[0];
  std::vector<std::vector<float>> rows(caches);
  for (int i = 0; i < caches; ++i) {
    rows[i].resize(size_t(context) * in[own + i].shape[2] * in[own + i].shape[3]);
    in[own + i].data = encode[3 + i].data = rows[i].data();
  }
  Ids prefix = integers(argv[2]), canvas(n), words(size_t(steps) * 2 * n), tokens;
  int64_t length = 0, part = 0, most = argc > 4 ? std::atoll(argv[4]) : n;
  bool adaptive = true, stopped = false;
  std::vector<float> temperatures(steps);  // what the sampler was exported with
  for (int i = 0; i < steps; ++i) {
    temperatures[i] = float(real(bundle, "t_min") + (real(bundle, "t_max") - real(bundle, "t_min")) * (double(steps - i) / steps));
  }
  std::vector<double> bounds(steps, real(bundle, "entropy_bound"));
  double confidence = real(bundle, "confidence_threshold");
  int64_t most_steps = steps, stability = int64_t(real(bundle, "stability_threshold"));
  void* given[own] = {canvas.data(), words.data(), &adaptive, temperatures.data(), bounds.data(), &most_steps, &confidence,
                      &stability, &length};
  for (int i = 0; i < own; ++i) in[i].data = given[i];
  for (uint32_t c = 0; !stopped && int64_t(tokens.size()) < most && int64_t(prefix.size()) + n <= context; ++c) {
    for (; length < int64_t(prefix.size()); length += part) {
      part = std::min<int64_t>(prefix.size() - length, chunk);
      encode[0].shape[1] = int32_t(part), encode[0].data = &prefix[length], encode[1].data = &length, encode[2].data = &part;
      const int slots = std::min(context, int(std::max<int64_t>(1, length) + 63) / 64 * 64);  // filled ones, rounded up
      for (int i = 0; i < caches; ++i) encode[3 + i].shape[1] = slots;
      check(dg_run(model, "encode", encode, 3 + caches, out, 256) == caches, "encode");
      for (int i = 0; i < caches; ++i) {
        const size_t width = size_t(out[i].shape[2]) * out[i].shape[3];
        std::copy_n(static_cast<float*>(out[i].data), part * width, rows[i].data() + length * width);
      }
    }
    fill(seed, c, vocabulary[0], canvas, words);
    check(dg_run(model, "generate", in, count, out, 256) > 0, "generate");
    for (int i = 0; i < n && !stopped && int64_t(tokens.size()) < most; ++i) {
      const int64_t token = static_cast<int64_t*>(out[0].data)[i];
      stopped = std::count(stops.begin(), stops.end(), token) > 0;
      if (!stopped) tokens.push_back(token), prefix.push_back(token);
    }
  }
  for (size_t i = 0; i < tokens.size(); ++i) std::printf("%s%lld", i ? "," : "", static_cast<long long>(tokens[i]));
  std::printf("\n");
  dg_close(model);
}
