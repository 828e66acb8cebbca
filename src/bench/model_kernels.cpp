#include "bench/model_kernels.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <map>

#if KV8_HAS_CUDA
#include "cuda/testing/kernel_trace.h"
#endif

namespace kv8::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct OpName {
  const char* operator()(const RmsNormStep&) const { return "rms_norm"; }
  const char* operator()(const LinearStep&) const { return "linear"; }
  const char* operator()(const RopeKvWriteStep&) const { return "rope_kv_write"; }
  const char* operator()(const AttentionStep&) const { return "attention"; }
  const char* operator()(const SwiGluStep&) const { return "swiglu"; }
  const char* operator()(const SelectRowsStep&) const { return "select_rows"; }
};

/// Reads the clock whenever a step's result passes: a backend that keeps every step's result in
/// memory hands them over in order.
class StepClock final : public TapSink {
 public:
  explicit StepClock(const Plan& plan) : plan_(plan) {}
  void start_call() {
    step_ = 0;
    last_ = Clock::now();
  }
  void on_qkv(std::int32_t, std::int64_t, const float*, const float*, const float*) override {}
  bool wants_values() const override { return true; }
  void on_value(std::string_view, std::int64_t, std::int64_t, const float*) override {
    const auto now = Clock::now();
    KernelTime& op = ops_[std::visit(OpName{}, plan_.steps.at(step_++))];
    op.ms += std::chrono::duration<double, std::milli>(now - last_).count();
    ++op.count;
    last_ = now;
  }
  std::map<std::string, KernelTime> take() { return std::move(ops_); }

 private:
  const Plan& plan_;
  std::size_t step_ = 0;
  Clock::time_point last_;
  std::map<std::string, KernelTime> ops_;
};

KernelKind kind_of(const std::string& name) {
  const auto names_one_of = [&name](auto&&... words) {
    return ((name.find(words) != std::string::npos) || ...);
  };
  // kv8's own kernels, and what cuBLASLt calls its products on Hopper.
  if (names_one_of("linear", "multiply_rows", "gemv", "gemm", "nvjet", "splitK", "cutlass")) {
    return KernelKind::kLinear;
  }
  if (name == "attention" || names_one_of("decode", "prefill", "merge")) {
    return KernelKind::kAttention;
  }
  return KernelKind::kOther;
}

KernelSplit mean_of(std::map<std::string, KernelTime> ops, std::size_t pieces) {
  KernelSplit split;
  const auto count = static_cast<double>(pieces);
  for (auto& [name, op] : ops) {
    op.name = name;
    op.kind = kind_of(name);
    op.ms /= count;
    op.count /= static_cast<std::int64_t>(pieces);
    split.busy_ms += op.ms;
    split.kernels.push_back(std::move(op));
  }
  std::sort(split.kernels.begin(), split.kernels.end(),
            [](const KernelTime& a, const KernelTime& b) { return a.ms > b.ms; });
  return split;
}

Result<KernelSplit> split_on_cpu(Candidate& candidate, const std::vector<TimedCalls>& pieces) {
  StepClock clock(candidate.plan());
  for (const TimedCalls& piece : pieces) {
    for (const Call& call : piece) {
      clock.start_call();
      KV8_TRY(candidate.backend().run(call.batch(), &clock));
    }
  }
  return mean_of(clock.take(), pieces.size());
}

#if KV8_HAS_CUDA
Result<KernelSplit> split_on_gpu(Candidate& candidate, const std::vector<TimedCalls>& pieces) {
  const auto trace = KV8_TRY(cuda_testing::trace_kernels([&]() -> Status {
    for (const TimedCalls& piece : pieces) KV8_TRY(candidate.run(piece, nullptr));
    return {};
  }));
  std::map<std::string, KernelTime> kernels;
  for (const cuda_testing::TracedKernel& traced : trace.kernels) {
    KernelTime& kernel = kernels[traced.name];
    kernel.ms = traced.ms;
    kernel.count = traced.count;
  }
  KernelSplit split = mean_of(std::move(kernels), pieces.size());
  split.busy_ms = trace.busy_ms / static_cast<double>(pieces.size());
  return split;
}
#endif

}  // namespace

std::string kernel_kind_name(KernelKind kind) {
  if (kind == KernelKind::kLinear) return "linear";
  return kind == KernelKind::kAttention ? "attention" : "other";
}

Status can_split_kernels(std::string_view backend) {
  if (backend == "cpu") return {};
#if KV8_HAS_CUDA
  return cuda_testing::load_tracing();
#else
  return unsupported("kernels of backend {} cannot be timed", backend);
#endif
}

Result<KernelSplit> split_by_kernel(Candidate& candidate, const std::vector<TimedCalls>& pieces) {
  KV8_CHECK(!pieces.empty(), "nothing to watch");
#if KV8_HAS_CUDA
  if (!candidate.on_cpu()) return split_on_gpu(candidate, pieces);
#endif
  return split_on_cpu(candidate, pieces);
}

}  // namespace kv8::bench
