// Pinned memory through which a step's numbers go to the GPU and sampled tokens come back.
#pragma once

#include <driver_types.h>

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "cuda/engine/batch_image.h"
#include "cuda/engine/engine_memory.h"
#include "graph/backend.h"

namespace kv8::cuda_engine {

/// Uploads control blocks and page tables. Two sets of pinned memory take turns, so that a step can
/// be prepared while the one before still runs.
class BatchStaging {
 public:
  static Result<BatchStaging> create(const EngineMemory& memory, const BackendOptions& options);
  /// Enqueues the copies. Page tables go only where they differ from what the GPU has.
  Status upload(const BatchImage& image, cudaStream_t stream);

 private:
  struct FreeEvent {
    void operator()(cudaEvent_t event) const;
  };
  struct Turn {
    Memory control, page_table;
    std::unique_ptr<CUevent_st, FreeEvent> copied;
  };
  Status upload_page_tables(const BatchImage& image, Turn& turn, cudaStream_t stream);

  const EngineMemory* memory_ = nullptr;
  std::array<Turn, 2> turns_;
  std::size_t next_turn_ = 0;
  std::vector<std::int32_t> on_gpu_;  // the page table as last uploaded
};

/// Settings of the sampler one way, tokens the other way; one call at a time.
class SampleStaging {
 public:
  static Result<SampleStaging> create(std::size_t max_rows);
  /// Fills and enqueues the copies of settings and logit biases. kCapacity for more than
  /// kMaxBiasEntries of one row, or more log-probabilities than the kernel reports.
  Status upload(std::span<const SampleRow> rows, const EngineMemory& memory, cudaStream_t stream);
  /// As uploaded last.
  std::span<const SampleSettings> settings(std::size_t rows) const { return {settings_, rows}; }
  /// Enqueues the copies back.
  Status fetch(std::span<const SampleRow> rows, const EngineMemory& memory, cudaStream_t stream);
  /// After the stream has got there.
  void read(std::span<const SampleRow> rows, std::int32_t vocab_size,
            std::span<SampledToken> tokens) const;

 private:
  Memory pinned_;
  SampleSettings* settings_ = nullptr;
  SampleToken* tokens_ = nullptr;
  SampleBias* bias_ = nullptr;
  SampleTop* top_ = nullptr;
};

}  // namespace kv8::cuda_engine
