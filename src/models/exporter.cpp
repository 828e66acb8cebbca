#include "models/exporter.h"

#include "base/file.h"
#include "base/json.h"
#include "graph/onnx.h"
#include "models/decoder.h"

namespace kv8::models {
namespace {

namespace fs = std::filesystem;

/// An EAGLE-3 draft is known by a field of its config; it is not a model of its own.
Status refuse_draft(const fs::path& checkpoint_dir) {
  const fs::path file = checkpoint_dir / "config.json";
  const Json config = KV8_TRY(read_json_file(file));
  if (config.is_object() && config.contains("draft_vocab_size")) {
    return unsupported(
        "{}: `draft_vocab_size` makes this an EAGLE draft, which this version does not export",
        file.string());
  }
  return {};
}

std::string describe_cache(const DecoderOptions& options) {
  if (!options.quantize_kv) return "KV cache in FP16 (the checkpoint has no FP8 KV scales)";
  std::size_t with_q = 0;
  for (const io::LayerKvScales& scales : options.kv_scales) with_q += !scales.q.empty();
  const std::size_t layers = options.kv_scales.size();
  if (with_q == layers) return fmt::format("KV cache and Q in FP8, {} layers", layers);
  return fmt::format("KV cache in FP8, {} layers; Q stays FP16 in {} of them: no q_scale", layers,
                     layers - with_q);
}

}  // namespace

Status export_model(const fs::path& checkpoint_dir, const fs::path& dir,
                    const ExportOptions& options, const Reporter& reporter) {
  KV8_TRY(refuse_draft(checkpoint_dir));
  const io::Checkpoint checkpoint = KV8_TRY(io::Checkpoint::open(checkpoint_dir));
  DecoderOptions decoder = KV8_TRY(options_from_checkpoint(checkpoint));
  decoder.portable = options.portable;
  decoder.last_token_only = options.last_token_only;
  const graph::Graph graph = KV8_TRY(build_decoder_graph(checkpoint, decoder));
  reporter.info(describe_cache(decoder));

  // A folder that was not there is made whole, so that a failure leaves nothing of it.
  std::error_code ignored;
  const bool fresh = !fs::exists(dir, ignored);
  AtomicDir output = KV8_TRY(AtomicDir::create(fresh ? dir : dir / "llm"));
  const fs::path llm = fresh ? output.temporary() / "llm" : output.temporary();
  std::error_code failure;
  fs::create_directories(llm, failure);
  if (failure) return io_error("{}: cannot be created: {}", llm.string(), failure.message());
  KV8_TRY(write_model_side_files(checkpoint, decoder.quantize_kv, llm));
  KV8_TRY(graph::write_onnx(graph, llm, reporter));
  return output.commit();
}

}  // namespace kv8::models
