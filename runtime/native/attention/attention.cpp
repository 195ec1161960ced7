#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "../kernels_of.h"
#include "kernel.h"

namespace dgemma::attention {
namespace {

constexpr int kWidth = 16;                  // what widths are filled up to
constexpr size_t kChunk = size_t{1} << 16;  // floats of the queries that a task takes

int filled(int size) { return (size + kWidth - 1) / kWidth * kWidth; }

// Room for so many floats, kept by the thread for its next task.
float* room(std::vector<float>& kept, size_t count) {
  if (kept.size() < count) kept.resize(count);
  return kept.data();
}

class Pass {
 public:
  Pass(const dg_attention& layer, const Kernel& kernel, float* out)
      : l_(layer), kernel_(kernel), out_(out), group_(layer.heads / layer.kv_heads), wide_(filled(layer.dim)),
        total_(layer.slots + layer.rows), blocks_((total_ + kKeys - 1) / kKeys) {}

  bool few() const { return l_.rows * group_ <= kFew; }

  size_t tasks() const { return few() ? blocks_ : l_.kv_heads * chunks(); }

  void task(size_t i) {
    if (few()) {
      block(i);
    } else {
      chunk(static_cast<int>(i / chunks()), static_cast<int64_t>(i % chunks()) * per_chunk());
    }
  }

  // Room for what tasks of few rows leave behind.
  void prepare() {
    static thread_local std::vector<float> kept;
    if (few()) parts_ = room(kept, blocks_ * part());
  }

  // Of few rows: what the blocks have made, in their order.
  void join() {
    if (!few()) return;
    const int count = static_cast<int>(l_.rows) * group_, rows = l_.kv_heads * count;
    for (int row = 0; row < rows; ++row) {
      float most = -std::numeric_limits<float>::infinity(), sum = 0;
      for (size_t b = 0; b < blocks_; ++b) most = std::max(most, parts_[b * part() + row]);
      float* to = place(row / count, row % count);
      std::fill(to, to + l_.dim, 0.0f);
      for (size_t b = 0; b < blocks_; ++b) {
        const float *part_of = &parts_[b * part()], *made = part_of + 2 * rows + static_cast<size_t>(row) * wide_;
        const float by = std::exp(part_of[row] - most);
        sum += part_of[rows + row] * by;
        for (int k = 0; k < l_.dim; ++k) to[k] += made[k] * by;
      }
      for (int k = 0; k < l_.dim; ++k) to[k] /= sum;
    }
  }

 private:
  int64_t per_chunk() const { return std::max<int64_t>(kFew, static_cast<int64_t>(kChunk) / wide_); }
  size_t chunks() const { return (l_.rows * group_ + per_chunk() - 1) / per_chunk(); }
  size_t part() const { return static_cast<size_t>(l_.kv_heads) * l_.rows * group_ * (wide_ + 2); }

  // Rows of a kv head: the heads that share it, position by position.
  size_t index(int head, int64_t row) const {
    return (static_cast<size_t>(row / group_) * l_.heads + static_cast<size_t>(head) * group_ + row % group_) * l_.dim;
  }
  float* place(int head, int64_t row) const { return out_ + index(head, row); }
  const float* bias(int64_t row, size_t key) const {
    return l_.bias + (l_.bias_rows == 1 ? 0 : row / group_ * total_) + key;
  }
  const float* vector(const float* old, const float* own, int head, size_t key) const {
    const size_t slots = static_cast<size_t>(l_.slots);
    return (key < slots ? old + key * l_.kv_heads * l_.dim : own + (key - slots) * l_.kv_heads * l_.dim) +
           static_cast<size_t>(head) * l_.dim;
  }

  // Queries of a kv head, filled up with zeros.
  void queries(int head, int64_t from, int64_t count, float* to) const {
    for (int64_t row = 0; row < count; ++row, to += wide_) {
      std::memcpy(to, l_.q + index(head, from + row), l_.dim * sizeof(float));
      std::fill(to + l_.dim, to + wide_, 0.0f);
    }
  }

  // Few rows, one block of the keys of all kv heads: memory is read from one end to the other.
  void block(size_t b) {
    static thread_local std::vector<float> kept;
    const int count = static_cast<int>(l_.rows) * group_, rows = l_.kv_heads * count;
    const size_t first = b * kKeys, size = static_cast<size_t>(rows) * wide_;
    const int some = static_cast<int>(std::min<size_t>(kKeys, total_ - first));
    float* q = room(kept, size + static_cast<size_t>(rows) * kKeys + (l_.dim == wide_ ? 0 : kKeys * l_.kv_heads * wide_));
    float *scores = q + size, *padded = scores + static_cast<size_t>(rows) * kKeys;
    float *most = &parts_[b * part()], *sum = most + rows, *out = sum + rows;
    const float* vectors[kKeys];
    std::fill(sum, sum + rows + size, 0.0f);
    for (int head = 0; head < l_.kv_heads; ++head) queries(head, 0, count, q + static_cast<size_t>(head) * count * wide_);
    find(l_.old_keys, l_.keys, first, some, padded, vectors);
    kernel_.dots(q, count, l_.kv_heads, wide_, vectors, some, scores);
    for (int row = 0; row < rows; ++row) {
      most[row] = -std::numeric_limits<float>::infinity();
      kernel_.exponentials(scores + row * kKeys, bias(row % count, first), some, most + row, sum + row);
    }
    find(l_.old_values, l_.values, first, some, padded, vectors);
    kernel_.mix(scores, count, l_.kv_heads, wide_, vectors, some, out);
  }

  // Where a block's keys or values are, filled up with zeros where they must be; behind the last, the first again.
  void find(const float* old, const float* own, size_t first, int count, float* padded, const float** to) const {
    for (int key = 0; key < count; ++key) {
      const float* at = to[key] = vector(old, own, 0, first + key);
      if (l_.dim == wide_) continue;
      to[key] = padded;
      for (int head = 0; head < l_.kv_heads; ++head, at += l_.dim, padded += wide_) {
        std::memcpy(padded, at, l_.dim * sizeof(float));
        std::fill(padded + l_.dim, padded + wide_, 0.0f);
      }
    }
    for (int key = count; key % kTogether != 0; ++key) to[key] = to[0];
  }

  // Many rows of a kv head against all of its keys, block by block.
  void chunk(int head, int64_t from) {
    static thread_local std::vector<float> kept;
    const int panel = kernel_.panel, columns = (wide_ + panel - 1) / panel * panel;
    const int64_t count = std::min<int64_t>(per_chunk(), l_.rows * group_ - from);
    float* q = room(kept, (count + kKeys) * (wide_ + columns) + count * (kKeys + 2));
    float* sums = q + count * wide_;
    float* keys = sums + count * columns;
    float* values = keys + static_cast<size_t>(kKeys) * wide_;
    float* scores = values + static_cast<size_t>(kKeys) * columns;
    float* most = scores + count * kKeys;
    float* total = most + count;
    queries(head, from, count, q);
    std::fill(sums, sums + count * columns, 0.0f);
    std::fill(most, most + count, -std::numeric_limits<float>::infinity());
    std::fill(total, total + count, 0.0f);
    for (size_t first = 0; first < total_; first += kKeys) {
      const int some = static_cast<int>(std::min<size_t>(kKeys, total_ - first));
      pack_keys(head, first, some, keys);
      for (int p = 0; p < kKeys; p += panel) {
        kernel_.product(q, wide_, static_cast<int>(count), keys + static_cast<size_t>(p) * wide_, wide_, scores + p, kKeys, false);
      }
      for (int64_t row = 0; row < count; ++row) {
        const float by =
            kernel_.exponentials(scores + row * kKeys, bias(from + row, first), some, most + row, total + row);
        if (by != 1) kernel_.scale(sums + row * columns, columns, by);
      }
      pack_values(head, first, some, columns, values);
      for (int p = 0; p < columns; p += panel) {
        kernel_.product(scores, kKeys, static_cast<int>(count), values + static_cast<size_t>(p) * kKeys, kKeys, sums + p, columns, true);
      }
    }
    for (int64_t row = 0; row < count; ++row) {
      float* to = place(head, from + row);
      for (int k = 0; k < l_.dim; ++k) to[k] = sums[row * columns + k] / total[row];
    }
  }

  // Keys [kKeys] as panels [d][panel].
  void pack_keys(int head, size_t first, int count, float* to) const {
    const int panel = kernel_.panel;
    if (count < kKeys) std::fill(to, to + static_cast<size_t>(kKeys) * wide_, 0.0f);
    for (int p = 0; p < count; p += panel, to += static_cast<size_t>(panel) * wide_) {
      const int last = std::min(panel, count - p);
      for (int key = 0; key < last; ++key) {
        const float* at = vector(l_.old_keys, l_.keys, head, first + p + key);
        for (int k = 0; k < l_.dim; ++k) to[static_cast<size_t>(k) * panel + key] = at[k];
        for (int k = l_.dim; k < wide_; ++k) to[static_cast<size_t>(k) * panel + key] = 0;
      }
    }
  }

  // Values [kKeys] as panels [kKeys][panel].
  void pack_values(int head, size_t first, int count, int columns, float* to) const {
    const int panel = kernel_.panel;
    if (count < kKeys || columns > l_.dim) std::fill(to, to + static_cast<size_t>(kKeys) * columns, 0.0f);
    for (int key = 0; key < count; ++key) {
      const float* at = vector(l_.old_values, l_.values, head, first + key);
      for (int k = 0; k < l_.dim; k += panel) {
        std::memcpy(to + static_cast<size_t>(k) * kKeys + static_cast<size_t>(key) * panel, at + k,
                    std::min(panel, l_.dim - k) * sizeof(float));
      }
    }
  }

  const dg_attention& l_;
  const Kernel& kernel_;
  float* out_;
  int group_, wide_;
  size_t total_, blocks_;
  float* parts_ = nullptr;  // of few rows, block by block: largest scores, sums of exponentials, sums of values
};

}  // namespace
}  // namespace dgemma::attention

extern "C" {

const char* dg_attention_kernel(int index) {
  return dgemma::kernel_name(dgemma::attention::kernels(), index);
}

const char* dg_attend(const dg_attention* layer, float* out, const char* kernel, const dg_parallel* parallel) {
  using dgemma::attention::Pass;
  if (layer->kv_heads < 1 || layer->heads % layer->kv_heads != 0 || layer->heads < 1 || layer->dim < 1 || layer->rows < 0 ||
      layer->slots < 0) {
    return "a size of the attention is wrong";
  }
  if (layer->bias_rows != 1 && layer->bias_rows != layer->rows) return "the bias does not have the rows of the attention";
  const dgemma::attention::Kernel* found = dgemma::find_kernel(dgemma::attention::kernels(), kernel);
  if (found == nullptr) return "this processor does not run the kernel for attention that was asked for";
  if (layer->rows == 0) return nullptr;
  try {
    Pass pass(*layer, *found, out);
    pass.prepare();
    const size_t tasks = pass.tasks();
    if (parallel == nullptr || tasks == 1) {
      for (size_t i = 0; i < tasks; ++i) pass.task(i);
    } else {
      parallel->run(parallel->self, [](void* self, size_t i) { static_cast<Pass*>(self)->task(i); }, &pass, tasks);
    }
    pass.join();
  } catch (const std::bad_alloc&) {
    return "there is not enough memory for the attention";
  }
  return nullptr;
}

}  // extern "C"
