// Attention over the cache, from its inputs' projections to its merged heads, found in a graph.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "exec/graph_match.h"
#include "graph/plan.h"

namespace kv8::exec {

/// Q, K or V of a layer.
struct HeadsMatch {
  std::string rows;                 ///< the value that is split into heads
  std::optional<std::string> norm;  ///< the output of an RMSNormalization over head_dim
  std::int64_t num_heads = 0, head_dim = 0;
  DType model_dtype = DType::kF16;  ///< what the rotated value is rounded to
};

struct AttentionMatch {
  HeadsMatch q, k, v;
  std::int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  DType model_dtype = DType::kF16;
  float softmax_scale = 0.0f;
  LayerCache cache;
};

/// cos and sin of the positions' angles, which all layers share.
struct RotationMatch {
  std::string cos, sin;
  std::vector<float> inv_freq;
  float attention_factor = 1.0f;
};

class AttentionMatcher {
 public:
  explicit AttentionMatcher(GraphMatcher& graph) : graph_(graph) {}

  /// `merged`: the attention's output with its heads merged, [batch, sequence, heads * head_dim].
  Result<AttentionMatch> match(std::size_t layer, const std::string& merged);
  const RotationMatch& rotation() const { return rotation_; }

 private:
  Result<HeadsMatch> query(const std::string& value, LayerCache& cache);
  Result<HeadsMatch> cached(std::size_t layer, const std::string& kind, const std::string& value,
                            LayerCache& cache);
  Result<std::string> cache_update(const std::string& past, const std::string& present,
                                   const std::string& value, DType dtype);
  Result<HeadsMatch> heads(const std::string& rounded, const std::string& kind);
  Result<std::string> unrotated(const std::string& value, const std::string& kind);
  Status match_rotation(const std::string& cos, const std::string& sin, std::int64_t head_dim);
  Result<std::string> scaled_angles(const std::string& value, std::string_view op_type,
                                    float& factor);
  Result<std::vector<float>> scale_of(const graph::Node& node, std::int64_t num_heads,
                                      std::string_view what);
  Status check_geometry(std::size_t layer, const AttentionMatch& match) const;
  Status check_past(std::size_t layer, std::string_view kind, const AttentionMatch& match) const;

  GraphMatcher& graph_;
  RotationMatch rotation_;
};

}  // namespace kv8::exec
