// What lies beside an exported graph: config, embedding, tokenizer, chat template.
#include <algorithm>

#include "base/file.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "models/exporter.h"
#include "text/chat_template.h"

namespace kv8::models {
namespace {

namespace fs = std::filesystem;

/// `rope_scaling` in transformers 4's spelling, also where config.json has `rope_parameters`.
Json rope_scaling_of(const Json& config, RopeScalingKind kind) {
  if (kind == RopeScalingKind::kNone) return Json();
  const auto parameters = config.find("rope_parameters");
  if (parameters == config.end() || parameters->is_null()) return config.at("rope_scaling");
  Json scaling = *parameters;
  scaling.erase("rope_theta");
  return scaling;
}

Result<Json> exported_config(const io::Checkpoint& checkpoint, bool kv_fp8) {
  const io::ModelConfig& model = checkpoint.config();
  Json config = KV8_TRY(parse_json(model.raw_json, (checkpoint.dir() / "config.json").string()));
  config["rope_scaling"] = rope_scaling_of(config, model.rope.scaling.kind);
  config["rope_theta"] = model.rope.theta;
  config["eos_token_id"] = model.eos_token_ids;
  config["kv_cache_dtype"] = kv_fp8 ? "fp8" : "fp16";
  config["engine_role"] = "llm";
  config["spec_decode_type"] = "none";
  return config;
}

Status copy_tokenizer(const fs::path& from, const fs::path& to) {
  if (!fs::is_regular_file(from / "tokenizer.json")) {
    return not_found(
        "{}: tokenizer.json is missing; kv8 reads no other tokenizer file (transformers' "
        "AutoTokenizer.save_pretrained writes it)",
        from.string());
  }
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    if (fs::is_regular_file(from / name)) KV8_TRY(kv8::copy_file(from / name, to / name));
  }
  return {};
}

/// A processed template beside the checkpoint is the user's answer to an unknown one. A base model
/// has none, and gets none.
Status write_template(const fs::path& from, const fs::path& to) {
  const char* name = "processed_chat_template.json";
  if (!fs::exists(from / name)) {
    const auto processed = text::process_chat_template(from);
    if (!processed.ok() && processed.error().code == ErrorCode::kNotFound) return {};
    const text::ChatTemplate value = KV8_TRY(processed);
    return text::write_chat_template(value, to / name);
  }
  KV8_TRY(text::read_chat_template(from / name));
  return kv8::copy_file(from / name, to / name);
}

}  // namespace

Result<TensorView> embedding_table(const io::Checkpoint& checkpoint) {
  const char* name = "model.embed_tokens.weight";
  const io::ModelConfig& config = checkpoint.config();
  const TensorView table =
      KV8_TRY(checkpoint.weight(name, {config.vocab_size, config.hidden_size}));
  TensorView half = KV8_TRY(convert(table, DType::kF16));
  constexpr std::uint16_t kExponent = 0x7C00;
  const std::span bits(half.data<std::uint16_t>(), half.bytes.size() / sizeof(std::uint16_t));
  if (std::ranges::any_of(bits, [](std::uint16_t b) { return (b & kExponent) == kExponent; })) {
    return bad_input("{}: tensor {} has values that FP16 cannot hold (NaN, infinite, above 65504)",
                     checkpoint.dir().string(), name);
  }
  return half;
}

Status write_model_side_files(const io::Checkpoint& checkpoint, bool kv_fp8, const fs::path& dir) {
  KV8_TRY(write_template(checkpoint.dir(), dir));
  KV8_TRY(copy_tokenizer(checkpoint.dir(), dir));
  KV8_TRY(write_json_file(dir / "config.json", KV8_TRY(exported_config(checkpoint, kv_fp8))));
  TensorView embedding = KV8_TRY(embedding_table(checkpoint));
  return io::write_safetensors(dir / "embedding.safetensors",
                               {{"embedding", std::move(embedding)}});
}

}  // namespace kv8::models
