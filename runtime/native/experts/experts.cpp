// The layer: which rows go to which expert, and the three passes over them. It knows nothing of instructions or engines.
#include "experts.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "../kernels_of.h"
#include "kernel.h"

namespace dgemma {
namespace {

constexpr int kChunk = 8;  // pairs of panels of a task

int up_to(int size, int multiple) { return (size + multiple - 1) / multiple * multiple; }

struct Part {  // rows of one expert that are multiplied at once
  int first, count;
};

// (row, expert) pairs in the order of experts, those of one expert in the order of rows.
struct Routes {
  std::vector<int> start;          // [E + 1]
  std::vector<int> row;            // [R K]
  std::vector<float> weight;       // [R K]
  std::vector<int> used;           // experts that have rows
  std::vector<std::vector<Part>> parts;

  Routes(int experts, const int64_t* ids, const float* weights, int64_t rows, int chosen)
      : start(experts + 1), row(rows * chosen), weight(rows * chosen) {
    for (int64_t i = 0; i < rows * chosen; ++i) ++start[ids[i] + 1];
    for (int e = 0; e < experts; ++e) {
      if (start[e + 1] > 0) used.push_back(e);
      start[e + 1] += start[e];
    }
    std::vector<int> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < rows * chosen; ++i) {
      const int at = next[ids[i]]++;
      row[at] = static_cast<int>(i / chosen);
      weight[at] = weights[i];
    }
    for (const int e : used) {
      const int count = start[e + 1] - start[e], number = (count + kMostRows - 1) / kMostRows;
      parts.emplace_back();
      for (int p = 0; p < number; ++p) {
        const int from = static_cast<int>(static_cast<int64_t>(count) * p / number);
        const int to = static_cast<int>(static_cast<int64_t>(count) * (p + 1) / number);
        parts.back().push_back({start[e] + from, to - from});
      }
    }
  }
};

// Rounded rows as products read them: of each part [blocks][rows][4].
struct Rounded {
  std::vector<int8_t> integers;
  std::vector<float> unit;
  std::vector<int32_t> total;

  Rounded(size_t rows, int size) : integers(rows * size), unit(rows), total(rows) {}

  void set(const Part& part, int index, int size, const int8_t* row, float its_unit) {
    int8_t* to = integers.data() + static_cast<size_t>(part.first) * size + 4 * index;
    int32_t sum = 0;
    for (int i = 0; i < size; i += 4, to += 4 * part.count) {
      std::memcpy(to, row + i, 4);
      sum += row[i] + row[i + 1] + row[i + 2] + row[i + 3];
    }
    unit[part.first + index] = its_unit;
    total[part.first + index] = sum;
  }
};

// One of a layer's two stacks of matrices, in pairs of panels.
struct Stack {
  const uint8_t *weights, *multipliers;
  const float* scale;
  int pairs, blocks, group;

  size_t panel_bytes() const { return static_cast<size_t>(blocks) * kBlock / (group != 0 ? 2 : 1); }

  // Sums [count][32] of a pair and each of an expert's parts; use(part, sums) takes them.
  template <typename Use>
  void multiply(const Kernel& kernel, int expert, int index, const std::vector<Part>& parts, const Rounded& rows,
                const Use& use) const {
    int32_t sums[kMostRows * kPair];
    const size_t panel = 2 * (static_cast<size_t>(expert) * pairs + index);
    const uint8_t* stored = weights + panel * panel_bytes();
    const int groups = group == 0 ? 0 : (4 * blocks + group - 1) / group;
    const uint8_t* their = multipliers + panel * groups * kPanel;
    const bool few = group != 0 && parts.size() == 1 && parts[0].count <= kernel.few;
    const int8_t* wide = reinterpret_cast<const int8_t*>(stored);
    if (group != 0 && !few) wide = expanded(kernel, stored, their, groups);
    for (const Part& part : parts) {
      const int8_t* x = rows.integers.data() + static_cast<size_t>(part.first) * 4 * blocks;
      if (few) {
        for (int i = 0; i < 2; ++i) {  // one after the other: memory is read faster in one stream
          kernel.product_few(stored + i * panel_bytes(), their + i * groups * kPanel, x, part.count, blocks, group,
                             sums + i * kPanel);
        }
      } else {
        kernel.product(wide, x, &rows.total[part.first], part.count, blocks, sums);
      }
      use(part, sums);
    }
  }

  // A pair of 4-bit integers as 8-bit ones, until this thread's next call.
  const int8_t* expanded(const Kernel& kernel, const uint8_t* stored, const uint8_t* their, int groups) const {
    thread_local std::vector<int8_t> scratch;
    const size_t size = static_cast<size_t>(blocks) * kBlock;
    if (scratch.size() < 2 * size) scratch.resize(2 * size);
    for (int i = 0; i < 2; ++i) {
      kernel.expand(stored + i * panel_bytes(), their + i * groups * kPanel, blocks, group, scratch.data() + i * size);
    }
    return scratch.data();
  }
  const float* scales(int expert, int index) const {
    return scale + (static_cast<size_t>(expert) * pairs + index) * kPair;
  }
};

template <typename Task>
void spread(const dg_parallel* parallel, size_t count, const Task& task) {
  if (parallel == nullptr || count < 2) {
    for (size_t i = 0; i < count; ++i) task(i);
    return;
  }
  const auto call = [](void* context, size_t i) { (*static_cast<const Task*>(context))(i); };
  parallel->run(parallel->self, call, const_cast<Task*>(&task), count);
}

int chunks(int pairs) { return (pairs + kChunk - 1) / kChunk; }

class Layer {
 public:
  Layer(const dg_experts& l, const Kernel& kernel, const dg_parallel* parallel)
      : kernel_(kernel), parallel_(parallel), hidden_(l.hidden), width_(up_to(l.width, kPanel)),
        wide_(up_to(l.hidden, kPair)), inputs_(up_to(l.hidden, 8)),
        gate_up_{l.gate_up, l.gate_up_multipliers, l.gate_up_scale, width_ / kPanel, inputs_ / 4, l.gate_up_group},
        down_{l.down, l.down_multipliers, l.down_scale, wide_ / kPair, width_ / 4, l.down_group} {}

  void run(const Routes& routes, const float* x, int64_t rows, float* out) const {
    const size_t pairs = routes.row.size();
    const Rounded given = round_rows(routes, x, rows);
    std::vector<float> hidden(pairs * width_);
    const int per_expert = chunks(gate_up_.pairs);
    spread(parallel_, routes.used.size() * per_expert, [&](size_t i) {
      gate(routes, i / per_expert, static_cast<int>(i % per_expert), given, hidden.data());
    });
    Rounded between(pairs, width_);
    spread(parallel_, routes.used.size(), [&](size_t i) {
      std::vector<int8_t> row(width_);
      for (const Part& part : routes.parts[i]) {
        for (int r = 0; r < part.count; ++r) {
          float unit;
          kernel_.round(hidden.data() + static_cast<size_t>(part.first + r) * width_, width_, width_, row.data(), &unit);
          between.set(part, r, width_, row.data(), unit);
        }
      }
    });
    std::vector<float> sums(static_cast<size_t>(rows) * wide_);
    spread(parallel_, chunks(down_.pairs), [&](size_t i) { add(routes, static_cast<int>(i), between, sums.data()); });
    for (int64_t r = 0; r < rows; ++r) std::memcpy(out + r * hidden_, sums.data() + r * wide_, hidden_ * sizeof(float));
  }

 private:
  Rounded round_rows(const Routes& routes, const float* x, int64_t rows) const {
    std::vector<int8_t> integers(static_cast<size_t>(rows) * inputs_);
    std::vector<float> units(rows);
    spread(parallel_, rows, [&](size_t r) {
      kernel_.round(x + r * hidden_, hidden_, inputs_, integers.data() + r * inputs_, &units[r]);
    });
    Rounded given(routes.row.size(), inputs_);
    spread(parallel_, routes.used.size(), [&](size_t i) {
      for (const Part& part : routes.parts[i]) {
        for (int r = 0; r < part.count; ++r) {
          const size_t row = routes.row[part.first + r];
          given.set(part, r, inputs_, integers.data() + row * inputs_, units[row]);
        }
      }
    });
    return given;
  }

  // gelu(gate) · up of one expert's rows, for a chunk of its columns.
  void gate(const Routes& routes, size_t index, int chunk, const Rounded& given, float* hidden) const {
    const int expert = routes.used[index], last = std::min(gate_up_.pairs, (chunk + 1) * kChunk);
    for (int pair = chunk * kChunk; pair < last; ++pair) {
      const float* scale = gate_up_.scales(expert, pair);
      gate_up_.multiply(kernel_, expert, pair, routes.parts[index], given, [&](const Part& part, const int32_t* sums) {
        for (int r = 0; r < part.count; ++r) {
          kernel_.gate(sums + r * kPair, given.unit[part.first + r], scale,
                       hidden + static_cast<size_t>(part.first + r) * width_ + pair * kPanel);
        }
      });
    }
  }

  // A chunk of columns of the output, expert by expert.
  void add(const Routes& routes, int chunk, const Rounded& between, float* out) const {
    const int last = std::min(down_.pairs, (chunk + 1) * kChunk);
    for (size_t index = 0; index < routes.used.size(); ++index) {
      const int expert = routes.used[index];
      for (int pair = chunk * kChunk; pair < last; ++pair) {
        const float* scale = down_.scales(expert, pair);
        down_.multiply(kernel_, expert, pair, routes.parts[index], between, [&](const Part& part, const int32_t* sums) {
          for (int r = 0; r < part.count; ++r) {
            const int at = part.first + r;
            kernel_.add(sums + r * kPair, between.unit[at], scale, routes.weight[at],
                        out + static_cast<size_t>(routes.row[at]) * wide_ + pair * kPair);
          }
        });
      }
    }
  }

  const Kernel& kernel_;
  const dg_parallel* parallel_;
  int hidden_, width_, wide_, inputs_;  // the last three filled up
  Stack gate_up_, down_;
};

const char* check(const dg_experts& l, const int64_t* ids, int64_t rows, int32_t chosen) {
  if (l.experts < 1 || l.hidden < 1 || l.width < 1 || rows < 0 || chosen < 1) return "a size of the experts is not positive";
  if (l.bits != 4 && l.bits != 8) return "experts must have 4 or 8 bits";
  for (const int group : {l.gate_up_group, l.down_group}) {
    if (l.bits == 8 ? group != 0 : group < 8 || group % 8 != 0) return "the experts' groups must be multiples of 8";
  }
  for (int64_t i = 0; i < rows * chosen; ++i) {
    if (ids[i] < 0 || ids[i] >= l.experts) return "a chosen expert does not exist";
  }
  return nullptr;
}

// Threads that are started for one pass, and take the next task when they are done with one.
void run_threads(void* self, void (*task)(void*, size_t), void* context, size_t count) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) task(context, i);
  };
  std::vector<std::thread> others;
  for (int i = 1; i < *static_cast<int*>(self); ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}

}  // namespace
}  // namespace dgemma

extern "C" {

const char* dg_experts_kernel(int index) {
  return dgemma::kernel_name(dgemma::kernels(), index);
}

const char* dg_experts_run(const dg_experts* layer, const float* x, const int64_t* ids, const float* weights, int64_t rows,
                           int32_t chosen, float* out, const char* kernel, const dg_parallel* parallel) {
  if (const char* wrong = dgemma::check(*layer, ids, rows, chosen)) return wrong;
  const dgemma::Kernel* found = dgemma::find_kernel(dgemma::kernels(), kernel);
  if (found == nullptr) return "this processor does not run the kernel for experts that was asked for";
  try {
    const dgemma::Routes routes(layer->experts, ids, weights, rows, chosen);
    dgemma::Layer(*layer, *found, parallel).run(routes, x, rows, out);
  } catch (const std::bad_alloc&) {
    return "there is not enough memory for the experts";
  }
  return nullptr;
}

const char* dg_experts_run_threads(const dg_experts* layer, const float* x, const int64_t* ids, const float* weights,
                                   int64_t rows, int32_t chosen, float* out, const char* kernel, int threads) {
  const dg_parallel own = {dgemma::run_threads, &threads};
  return dg_experts_run(layer, x, ids, weights, rows, chosen, out, kernel, threads > 1 ? &own : nullptr);
}

}  // extern "C"
