// The decoder families (Llama, Mistral, Qwen2, Qwen3) as one graph of standard ONNX operators.
#pragma once

#include <vector>

#include "graph/graph.h"
#include "io/checkpoint.h"

namespace kv8::models {

struct DecoderOptions {
  bool quantize_kv = false;  ///< FP8 caches with `kv_scales`
  bool quantize_q = true;    ///< Q through QuantizeLinear too, where the scales have q
  std::vector<io::LayerKvScales> kv_scales;
  /// The variant that runs in ONNX Runtime's CPU provider: `input_ids` in, embedding inside, float
  /// caches that hold dequantized E4M3 values, quantize-dequantize before the scatter.
  bool portable = false;
  bool last_token_only = false;
};

/// Inputs, outputs and their names: docs/formats.md. Activations are FP32; FP16/BF16 weights are
/// initializers in their own type, cast where they are used. K and V pass through a Cast to the
/// model's type after RoPE, so that they are rounded once.
/// Weights are checked against the config's shapes; a missing one is an error naming the tensor.
Result<graph::Graph> build_decoder_graph(const io::Checkpoint& checkpoint,
                                         const DecoderOptions& options);

/// Options that the checkpoint itself implies: FP8 KV where its metadata says so.
Result<DecoderOptions> options_from_checkpoint(const io::Checkpoint& checkpoint);

}  // namespace kv8::models
