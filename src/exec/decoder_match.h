// The decoder's pieces, found in a graph by following its values backwards from the logits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "exec/graph_match.h"
#include "graph/plan.h"

namespace kv8::exec {

/// x W^T (+ b)
struct LinearMatch {
  std::string input;                           ///< the value x
  const graph::Initializer* weight = nullptr;  ///< [out, in]
  const graph::Initializer* bias = nullptr;    ///< [out] or none
};

struct NormMatch {
  std::string input;
  const graph::Initializer* weight = nullptr;
  float eps = 0.0f;
};

struct LayerMatch {
  std::string input;  ///< the hidden state before the layer
  NormMatch input_norm, post_attention_norm;
  LinearMatch q, k, v, o, gate, up, down;
  std::optional<NormMatch> q_norm, k_norm;
  LayerCache cache;
};

struct DecoderMatch {
  std::int64_t hidden_size = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  DType model_dtype = DType::kF16;
  float softmax_scale = 0.0f;
  std::vector<float> rope_inv_freq;
  float rope_attention_factor = 1.0f;
  std::vector<LayerMatch> layers;
  NormMatch final_norm;
  LinearMatch logits;
};

/// `graph` must be valid and outlive the result. A graph for ONNX Runtime alone (the portable
/// variant) is refused by name.
Result<DecoderMatch> match_decoder(const graph::Graph& graph);

}  // namespace kv8::exec
