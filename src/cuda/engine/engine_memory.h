// All memory of an engine on the GPU: weights, pages, activations and what kernels need beside
// them, in one arena whose size is known before it is allocated.
#pragma once

#include <driver_types.h>

#include <memory>
#include <string>
#include <vector>

#include "cuda/dense/rows/params.h"
#include "cuda/dense/sample/params.h"
#include "cuda/engine/memory.h"
#include "cuda/engine/program.h"
#include "cuda/kv_write/params.h"
#include "graph/backend.h"

namespace kv8::cuda_engine {

/// Entries of logit bias that one row may have.
inline constexpr std::size_t kMaxBiasEntries = 1024;

/// Offsets within the arena, and how many bytes go where.
struct EngineLayout {
  std::vector<std::size_t> weights, bias_f32, k_pages, v_pages, slots;
  std::vector<std::size_t> k_scale, v_scale, q_scale, head_scales;  // per layer
  std::size_t embedding, cos, sin, control, page_table, decode_workspace, product_workspace,
      scheduler, sample_workspace, sample_settings, sample_bias, sample_tokens, sample_top,
      page_pools, page_pair;
  std::int32_t shares_embedding = kNone;  ///< a weight with the embedding's bytes
  std::int64_t weight_bytes = 0, page_bytes = 0, activation_bytes = 0, total = 0;
};

/// `options` are completed; with no pages it is what all else takes. `embedding`, if given, is
/// compared with the weights, to keep a tied one only once.
Result<EngineLayout> layout_engine(const Plan& plan, const Program& program,
                                   const TensorView* embedding, const BackendOptions& options);

class EngineMemory {
 public:
  /// Allocates and fills the arena. kCapacity, with what would fit, when the GPU is too small.
  static Result<std::unique_ptr<EngineMemory>> make(const Plan& plan, const Program& program,
                                                    const TensorView& embedding,
                                                    const BackendOptions& options);

  const void* weight(WeightIndex index) const;
  const float* bias_f32(WeightIndex index) const;  ///< a product's bias as FP32
  const void* embedding() const { return arena_.data() + layout_.embedding; }
  void* slot(Slot slot) const { return arena_.data() + layout_.slots[std::size_t(slot)]; }
  void* k_pages(std::int32_t layer) const {
    return arena_.data() + layout_.k_pages[std::size_t(layer)];
  }
  void* v_pages(std::int32_t layer) const {
    return arena_.data() + layout_.v_pages[std::size_t(layer)];
  }
  /// One value, or one a KV head (Q's repeated); null where the layer has none.
  const float* k_scale(std::int32_t layer) const { return scale(layout_.k_scale, layer); }
  const float* v_scale(std::int32_t layer) const { return scale(layout_.v_scale, layer); }
  const float* q_scale(std::int32_t layer) const { return scale(layout_.q_scale, layer); }
  /// One for every head of a row of Q, K and V; null where one value serves all heads.
  const KvScale* head_scales(std::int32_t layer) const;
  const float* cos() const { return arena_.at<float>(layout_.cos); }
  const float* sin() const { return arena_.at<float>(layout_.sin); }
  int positions() const { return positions_; }

  std::int32_t* control() const { return arena_.at<std::int32_t>(layout_.control); }
  std::int32_t* page_table() const { return arena_.at<std::int32_t>(layout_.page_table); }
  int page_table_width() const { return page_table_width_; }
  /// Pages of each pool: the engine's, and one that padding writes to.
  std::int32_t num_pages() const { return num_pages_; }
  std::int32_t scratch_page() const { return num_pages_ - 1; }

  void* decode_workspace() const { return arena_.data() + layout_.decode_workspace; }
  void* product_workspace() const { return arena_.data() + layout_.product_workspace; }
  std::uint32_t* scheduler() const { return arena_.at<std::uint32_t>(layout_.scheduler); }
  void* sample_workspace() const { return arena_.data() + layout_.sample_workspace; }
  SampleSettings* sample_settings() const {
    return arena_.at<SampleSettings>(layout_.sample_settings);
  }
  SampleBias* sample_bias() const { return arena_.at<SampleBias>(layout_.sample_bias); }
  SampleToken* sample_tokens() const { return arena_.at<SampleToken>(layout_.sample_tokens); }
  SampleTop* sample_top() const { return arena_.at<SampleTop>(layout_.sample_top); }
  const PagePool* page_pools() const { return arena_.at<PagePool>(layout_.page_pools); }
  PagePair* page_pair() const { return arena_.at<PagePair>(layout_.page_pair); }
  /// "15.3 GiB weights, 2.0 GiB KV pages, 0.2 GiB activations and working memory"
  std::string text() const;

 private:
  EngineMemory() = default;
  Status upload(const Plan& plan, const TensorView& embedding);
  Status upload_scales(const Plan& plan);
  Status upload_pools(const Plan& plan);
  const float* scale(const std::vector<std::size_t>& offsets, std::int32_t layer) const;

  EngineLayout layout_;
  Memory arena_;
  int positions_ = 0;
  int page_table_width_ = 0;
  std::int32_t num_pages_ = 0;
};

/// Bytes that an engine of these options leaves free for pages: one at least, else kCapacity.
Result<std::int64_t> bytes_for_pages(const Plan& plan, const Program& program,
                                     const BackendOptions& options);

}  // namespace kv8::cuda_engine
