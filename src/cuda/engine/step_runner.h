// Launches the kernels of a plan's steps, in order, on one stream.
#pragma once

#include <driver_types.h>

#include <array>
#include <vector>

#include "cuda/attention/params.h"
#include "cuda/dense/gemv/params.h"
#include "cuda/engine/batch_image.h"
#include "cuda/engine/engine_memory.h"
#include "cuda/engine/products.h"
#include "cuda/kv_write/params.h"

namespace kv8::cuda_engine {

/// Is told of every step once its kernels are enqueued. With an observer no steps are fused.
class StepObserver {
 public:
  virtual ~StepObserver() = default;
  /// `result` is the device memory that the step wrote, `rows` its rows.
  virtual Status after(std::size_t step, const void* result, int rows) = 0;
};

class StepRunner {
 public:
  static Result<StepRunner> create(const Plan& plan, const Program& program,
                                   const EngineMemory& memory, Products& products);

  /// Enqueues the step whose numbers lie in the memory's control block and page table. Nothing is
  /// allocated or waited for, so the stream may be under capture once the same shape has run.
  Status run(const StepShape& shape, cudaStream_t stream, StepObserver* observer);

  /// Where the last run left the logits, FP32 [logits_rows, vocab_size].
  const float* logits() const { return static_cast<const float*>(data(plan_->logits_slot)); }
  const void* data(Slot slot) const { return slots_[static_cast<std::size_t>(slot)]; }

 private:
  StepRunner(const Plan& plan, const Program& program, const EngineMemory& memory,
             Products& products)
      : plan_(&plan), program_(&program), memory_(&memory), products_(&products) {}

  struct Run;
  Status embed(Run& run);
  Status step(Run& run, const RmsNormStep& step);
  Status step(Run& run, const LinearStep& step);
  Status step(Run& run, const RopeKvWriteStep& step);
  Status step(Run& run, const AttentionStep& step);
  Status step(Run& run, const SwiGluStep& step);
  Status step(Run& run, const SelectRowsStep& step);
  Status gemv(Run& run, const LinearStep& step);
  Status product(Run& run, const LinearStep& step);
  Status decode(const Run& run, const AttentionStep& step);
  Status prefill(const Run& run, const AttentionStep& step);

  void* data(Slot slot) { return slots_[static_cast<std::size_t>(slot)]; }
  int cols(Slot slot) const { return plan_->slot_cols[static_cast<std::size_t>(slot)]; }
  const LayerCache& cache(std::int32_t layer) const {
    return plan_->caches[static_cast<std::size_t>(layer)];
  }
  bool is_f32(WeightIndex weight) const {
    return plan_->weights[static_cast<std::size_t>(weight)].dtype == DType::kF32;
  }

  const Plan* plan_;
  const Program* program_;
  const EngineMemory* memory_;
  Products* products_;
  std::array<int, kGemvMaxRows + 1> max_norm_cols_{};  // by rows
  std::vector<ScoreType> score_types_;                 // by layer
  std::vector<std::array<KvScale, 3>> write_scales_;   // by layer
  std::vector<void*> slots_;
};

}  // namespace kv8::cuda_engine
