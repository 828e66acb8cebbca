// A backend in plain loops: the naive reference of every op, step by step. Its pages start out as
// NaN.
#pragma once

#include <memory>
#include <vector>

#include "graph/backend.h"

namespace kv8::exec {

class ReferenceBackend : public Backend {
 public:
  /// `plan` must outlive the backend and have one part per weight.
  ReferenceBackend(const Plan& plan, TensorView embedding, std::int32_t num_pages,
                   std::int64_t max_rows);

  Status run(const Batch& batch, TapSink* taps) override;
  Status read_logits(std::span<float> logits) override;
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override;
  Status copy_page(std::int32_t from, std::int32_t to) override;
  std::int64_t max_rows() const override { return max_rows_; }
  std::int32_t num_pages() const override { return num_pages_; }
  std::string_view name() const override { return "reference"; }

 private:
  struct LayerPages {
    KvLayout layout;
    std::vector<std::byte> k, v;
  };
  struct Running {
    const Batch* batch = nullptr;
    std::int64_t rows = 0;
    std::vector<std::vector<float>> slots;
  };

  void step(Running& running, const RmsNormStep& step);
  void step(Running& running, const LinearStep& step);
  void step(Running& running, const RopeKvWriteStep& step);
  void step(Running& running, const AttentionStep& step);
  void step(Running& running, const SwiGluStep& step);
  void step(Running& running, const SelectRowsStep& step);
  float* slot(Running& running, Slot slot);
  std::int64_t cols(Slot slot) const { return plan_.slot_cols[static_cast<std::size_t>(slot)]; }
  WeightView weight(WeightIndex index) const;
  KvCacheView cache(std::int32_t layer);

  const Plan& plan_;
  TensorView embedding_;
  std::vector<float> logits_;
  std::int32_t num_pages_;
  std::int64_t max_rows_;
  std::vector<LayerPages> layers_;
};

}  // namespace kv8::exec
