#include "io/gguf_import.h"

#include <algorithm>
#include <set>

#include "formats/simd_codec.h"
#include "io/model_config.h"
#include "io/paths.h"
#include "io/safetensors.h"

namespace kv8::io {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kOutputs[] = {"config.json", "generation_config.json",
                                         "model.safetensors", "tokenizer.json",
                                         "tokenizer_config.json"};

/// One tensor of the imported model and where it comes from.
struct ImportTensor {
  std::string name, gguf_name;
  Shape shape;
  /// GGUF's llama converters interleave the two rotary halves of every Q and K head.
  bool interleaved = false;
  const GgufTensor* source = nullptr;
};

class TensorPlan {
 public:
  explicit TensorPlan(const ModelConfig& config) : config_(config) {
    const std::int64_t hidden = config.hidden_size;
    add("model.embed_tokens.weight", "token_embd.weight", {config.vocab_size, hidden});
    for (int layer = 0; layer < config.num_layers; ++layer) add_layer(layer);
    add("model.norm.weight", "output_norm.weight", {hidden});
    if (!config.tie_word_embeddings) {
      add("lm_head.weight", "output.weight", {config.vocab_size, hidden});
    }
  }
  std::vector<ImportTensor>& tensors() { return tensors_; }

 private:
  void add(std::string name, std::string gguf_name, Shape shape, bool interleaved = false) {
    tensors_.push_back({std::move(name), std::move(gguf_name), std::move(shape), interleaved});
  }
  void add_linear(const std::string& name, const std::string& gguf_name, std::int64_t out,
                  std::int64_t in, bool bias, bool interleaved = false) {
    add(name + ".weight", gguf_name + ".weight", {out, in}, interleaved);
    if (bias) add(name + ".bias", gguf_name + ".bias", {out}, interleaved);
  }
  void add_layer(int layer) {
    const std::string to = fmt::format("model.layers.{}.", layer);
    const std::string from = fmt::format("blk.{}.", layer);
    const std::int64_t hidden = config_.hidden_size, ffn = config_.intermediate_size;
    const std::int64_t q = std::int64_t{config_.num_heads} * config_.head_dim;
    const std::int64_t kv = std::int64_t{config_.num_kv_heads} * config_.head_dim;
    const bool bias = config_.attention_bias, llama = config_.family == Family::kLlama;
    add(to + "input_layernorm.weight", from + "attn_norm.weight", {hidden});
    add_linear(to + "self_attn.q_proj", from + "attn_q", q, hidden, bias, llama);
    add_linear(to + "self_attn.k_proj", from + "attn_k", kv, hidden, bias, llama);
    add_linear(to + "self_attn.v_proj", from + "attn_v", kv, hidden, bias);
    add_linear(to + "self_attn.o_proj", from + "attn_output", hidden, q,
               config_.attention_output_bias);
    if (config_.family == Family::kQwen3) {
      add(to + "self_attn.q_norm.weight", from + "attn_q_norm.weight", {config_.head_dim});
      add(to + "self_attn.k_norm.weight", from + "attn_k_norm.weight", {config_.head_dim});
    }
    add(to + "post_attention_layernorm.weight", from + "ffn_norm.weight", {hidden});
    add_linear(to + "mlp.gate_proj", from + "ffn_gate", ffn, hidden, config_.mlp_bias);
    add_linear(to + "mlp.up_proj", from + "ffn_up", ffn, hidden, config_.mlp_bias);
    add_linear(to + "mlp.down_proj", from + "ffn_down", hidden, ffn, config_.mlp_bias);
  }

  const ModelConfig& config_;
  std::vector<ImportTensor> tensors_;
};

/// The file must have exactly the tensors of the plan (and `rope_freqs.weight`, which the
/// configuration has used up).
Status match_tensors(const GgufFile& file, std::vector<ImportTensor>& plan) {
  const std::string source = file.path().string();
  std::map<std::string_view, const GgufTensor*> there;
  for (const GgufTensor& tensor : file.tensors()) there[tensor.name] = &tensor;
  there.erase("rope_freqs.weight");
  for (ImportTensor& entry : plan) {
    const auto found = there.find(entry.gguf_name);
    if (found == there.end()) {
      return bad_input("{}: tensor {} is missing", source, entry.gguf_name);
    }
    entry.source = found->second;
    there.erase(found);
    if (entry.source->shape != entry.shape) {
      return bad_input("{}: tensor {} has shape {}, expected {} by the metadata", source,
                       entry.gguf_name, shape_text(entry.source->shape), shape_text(entry.shape));
    }
  }
  if (there.empty()) return {};
  return unsupported("{}: tensor {} belongs to no model that kv8 knows", source,
                     there.begin()->first);
}

/// Rows 2i and 2i + 1 of an interleaved head are rows i and i + d/2 of Hugging Face's.
std::vector<float> deinterleave(const std::vector<float>& values, std::size_t head_dim,
                                std::size_t cols) {
  std::vector<float> result(values.size());
  const std::size_t rows = values.size() / cols, half = head_dim / 2;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t head = row / head_dim, at = row % head_dim;
    const std::size_t from = head * head_dim + 2 * (at % half) + at / half;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(from * cols), cols,
                result.begin() + static_cast<std::ptrdiff_t>(row * cols));
  }
  return result;
}

Status write_as_f16(SafetensorsWriter& writer, const std::vector<float>& values,
                    const std::string& where) {
  constexpr std::uint16_t kExponent = 0x7C00;  // all ones: infinity or NaN
  std::vector<std::uint16_t> codes(values.size());
  f16_from_float(values.data(), codes.data(), codes.size());
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if ((codes[i] & kExponent) == kExponent) {
      return bad_input("{}: value {} does not fit FP16", where, values[i]);
    }
  }
  return writer.write(std::as_bytes(std::span(codes)));
}

/// Dequantizes and writes a few rows at a time (whole heads of interleaved tensors).
Status import_tensor(const ImportTensor& entry, std::size_t head_dim, const std::string& source,
                     SafetensorsWriter& writer) {
  constexpr std::size_t kPieceValues = 1 << 20;
  const std::string where = fmt::format("{}: tensor {}", source, entry.gguf_name);
  const GgufTensor& tensor = *entry.source;
  const bool matrix = entry.shape.size() == 2;
  const auto rows = static_cast<std::size_t>(matrix ? entry.shape[0] : 1);
  const auto cols = static_cast<std::size_t>(entry.shape.back());
  const std::size_t row_bytes = tensor.bytes.size() / rows;
  std::size_t step = std::max<std::size_t>(1, kPieceValues / cols);
  if (entry.interleaved) step = std::max<std::size_t>(1, step / head_dim) * head_dim;
  for (std::size_t row = 0; row < rows; row += step) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    const std::size_t count = std::min(step, rows - row);
    GgufTensor piece = tensor;
    piece.shape.back() = static_cast<std::int64_t>(cols);
    if (matrix) piece.shape[0] = static_cast<std::int64_t>(count);
    piece.bytes = tensor.bytes.subspan(row * row_bytes, count * row_bytes);
    std::vector<float> values = KV8_TRY(dequantize_gguf(piece));
    if (entry.interleaved) values = deinterleave(values, head_dim, matrix ? cols : 1);
    KV8_TRY(write_as_f16(writer, values, where));
  }
  return {};
}

Status import_weights(const GgufFile& file, const ModelConfig& config, const fs::path& path,
                      const Reporter& reporter) {
  TensorPlan plan(config);
  KV8_TRY(match_tensors(file, plan.tensors()));
  std::vector<TensorSpec> specs;
  for (const ImportTensor& entry : plan.tensors()) {
    specs.push_back({entry.name, DType::kF16, entry.shape});
  }
  SafetensorsWriter writer = KV8_TRY(SafetensorsWriter::create(path, specs, {{"format", "pt"}}));
  ProgressSink* progress = reporter.progress;
  const auto total = static_cast<std::int64_t>(specs.size());
  if (progress != nullptr) progress->begin("importing", total, "tensors");
  std::int64_t done = 0;
  for (const ImportTensor& entry : plan.tensors()) {
    KV8_TRY(import_tensor(entry, static_cast<std::size_t>(config.head_dim), file.path().string(),
                          writer));
    if (progress != nullptr) progress->advance(++done);
  }
  if (progress != nullptr) progress->end();
  return writer.commit();
}

/// Files that the import would leave beside its own could change what the folder means
/// (hf_quant_config.json, an index of shards).
Status check_output_folder(const fs::path& dir) {
  std::error_code failure;
  if (!fs::is_directory(dir, failure)) return {};
  for (const auto& entry : fs::directory_iterator(dir, failure)) {
    const std::string name = entry.path().filename().string();
    if (std::find(std::begin(kOutputs), std::end(kOutputs), name) == std::end(kOutputs)) {
      return usage_error("{}: holds {}, which is not from an import; choose another folder",
                         dir.string(), name);
    }
  }
  if (failure) return io_error("{}: {}", dir.string(), failure.message());
  return {};
}

Status refuse_splits(const GgufFile& file) {
  const auto found = file.metadata().find("split.count");
  if (found == file.metadata().end() || found->second == GgufValue(std::uint64_t{1}) ||
      found->second == GgufValue(std::uint64_t{0})) {
    return {};
  }
  return unsupported(
      "{}: one part of a split model; merge the parts first (llama-gguf-split --merge)",
      file.path().string());
}

}  // namespace

Status import_gguf(const fs::path& file, const fs::path& dir, const Reporter& reporter) {
  const GgufFile gguf = KV8_TRY(GgufFile::open(file));
  KV8_TRY(refuse_splits(gguf));
  const Json config = KV8_TRY(imported_config(gguf));
  const ModelConfig model =
      KV8_TRY(parse_model_config(config.dump(), file.string() + ": as config.json"));
  const ImportedTokenizer tokenizer = KV8_TRY(imported_tokenizer(gguf, config, reporter));
  KV8_TRY(check_output_folder(dir));
  AtomicDir output = KV8_TRY(AtomicDir::create(dir));
  const fs::path& to = output.temporary();
  KV8_TRY(import_weights(gguf, model, to / "model.safetensors", reporter));
  KV8_TRY(write_json_file(to / "config.json", config));
  KV8_TRY(write_json_file(to / "generation_config.json", imported_generation_config(config)));
  KV8_TRY(write_text_file(to / "tokenizer.json", tokenizer.tokenizer_json));
  KV8_TRY(write_json_file(to / "tokenizer_config.json", tokenizer.tokenizer_config));
  return output.commit();
}

}  // namespace kv8::io
