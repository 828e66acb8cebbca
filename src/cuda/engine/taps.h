// Values of a step as they pass, brought to the host for a TapSink.
#pragma once

#include <driver_types.h>

#include <vector>

#include "cuda/engine/engine_memory.h"
#include "cuda/engine/step_runner.h"
#include "graph/backend.h"

namespace kv8::cuda_engine {

/// For one run of a batch in the caller's order (RowOrder::kAsGiven).
class TapObserver final : public StepObserver {
 public:
  TapObserver(const Plan& plan, const Program& program, const EngineMemory& memory,
              const StepRunner& runner, const Batch& batch, TapSink& sink, cudaStream_t stream);
  Status after(std::size_t step, const void* result, int rows) override;

 private:
  Status show_qkv(const RopeKvWriteStep& step, int rows);
  Status show_value(std::size_t step, const void* result, int rows);

  const Plan& plan_;
  const Program& program_;
  const EngineMemory& memory_;
  const StepRunner& runner_;
  TapSink& sink_;
  cudaStream_t stream_;
  std::vector<std::int32_t> positions_;  // of each row
  Memory device_;                        // positions and FP32 values
  std::vector<std::byte> raw_;
  std::vector<float> values_;
};

}  // namespace kv8::cuda_engine
