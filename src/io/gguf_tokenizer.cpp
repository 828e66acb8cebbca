// tokenizer.json of a GGUF file: byte-level BPE with the merges that the file lists, or
// SentencePiece BPE with merges derived from its scores.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "io/gguf_import.h"
#include "io/gguf_metadata.h"
#include "io/messages.h"
#include "io/sentencepiece_merges.h"

namespace kv8::io {
namespace {

constexpr std::size_t kMaxTokenBytes = 1024;

/// `tokenizer.ggml.token_type`
enum TokenType : std::int64_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct Vocabulary {
  const std::vector<std::string>* tokens = nullptr;
  const std::vector<std::int64_t>* types = nullptr;  ///< nullptr: all normal
  std::unordered_map<std::string_view, std::int32_t> ids;

  std::int64_t type(std::size_t id) const { return types == nullptr ? kNormal : (*types)[id]; }
};

/// Pre-tokenization as `tokenizer.ggml.pre` names it.
struct PreTokenizerKind {
  std::string_view name;
  std::string_view tokenizer_class;
  bool digits = false;          ///< every digit alone, before GPT-2's own splitting
  bool nfc = false;             ///< normalizes to NFC first
  bool ignore_merges = false;   ///< a piece that is a token needs no merges
  bool add_bos = false;         ///< where the file does not say
  std::string_view regex = {};  ///< empty: GPT-2's
};

constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<PreTokenizerKind, 5> kPreTokenizers = {{
    {.name = "smollm", .tokenizer_class = "GPT2Tokenizer", .digits = true},
    {.name = "gpt-2", .tokenizer_class = "GPT2Tokenizer"},
    {.name = "default", .tokenizer_class = "GPT2Tokenizer"},
    {.name = "llama-bpe",
     .tokenizer_class = "PreTrainedTokenizerFast",
     .ignore_merges = true,
     .add_bos = true,
     .regex = kLlama3Regex},
    {.name = "qwen2", .tokenizer_class = "Qwen2Tokenizer", .nfc = true, .regex = kQwen2Regex},
}};

Result<const PreTokenizerKind*> find_pre_tokenizer(const GgufMetadata& metadata,
                                                   const Reporter& reporter) {
  constexpr std::string_view kKey = "tokenizer.ggml.pre";
  const std::string name = KV8_TRY(metadata.string_or(kKey, "default"));
  for (const PreTokenizerKind& kind : kPreTokenizers) {
    if (kind.name != name) continue;
    if (name == "default") {
      reporter.warn(fmt::format("{}: {} does not say how text is split; taking GPT-2's way",
                                metadata.source(), kKey));
    }
    return &kind;
  }
  return unsupported(
      "{}: {} \"{}\" is not supported; supported are smollm, gpt-2, default, "
      "llama-bpe, qwen2",
      metadata.source(), kKey, printable(name));
}

bool valid_utf8(const std::string& text) {
  try {
    (void)Json(text).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

Result<Vocabulary> read_vocabulary(const GgufMetadata& metadata, std::int64_t vocab_size) {
  Vocabulary vocabulary;
  vocabulary.tokens = KV8_TRY(metadata.strings("tokenizer.ggml.tokens"));
  vocabulary.types = KV8_TRY(metadata.integers("tokenizer.ggml.token_type"));
  const std::string& source = metadata.source();
  if (vocabulary.tokens == nullptr || vocabulary.tokens->empty()) {
    return bad_input("{}: metadata key tokenizer.ggml.tokens is missing or empty", source);
  }
  const std::vector<std::string>& tokens = *vocabulary.tokens;
  if (static_cast<std::int64_t>(tokens.size()) > vocab_size) {
    return bad_input("{}: tokenizer.ggml.tokens has {} entries, but the embedding {} rows", source,
                     tokens.size(), vocab_size);
  }
  if (vocabulary.types != nullptr && vocabulary.types->size() != tokens.size()) {
    return bad_input("{}: tokenizer.ggml.token_type has {} entries, expected {}", source,
                     vocabulary.types->size(), tokens.size());
  }
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (vocabulary.type(id) == kUnused) continue;
    if (tokens[id].empty() || tokens[id].size() > kMaxTokenBytes || !valid_utf8(tokens[id])) {
      return bad_input("{}: token {} is empty, longer than {} bytes or not UTF-8", source, id,
                       kMaxTokenBytes);
    }
    const auto [entry, is_new] = vocabulary.ids.emplace(tokens[id], static_cast<int>(id));
    if (!is_new) {
      return bad_input("{}: tokens {} and {} are the same, \"{}\"", source, entry->second, id,
                       printable(tokens[id]));
    }
  }
  return vocabulary;
}

/// Id and text of a special token, or nothing where the file has none.
Result<std::optional<std::int64_t>> special_id(const GgufMetadata& metadata, std::string_view name,
                                               const Vocabulary& vocabulary) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  if (!metadata.has(key)) return std::optional<std::int64_t>();
  const auto last = static_cast<std::int64_t>(vocabulary.tokens->size()) - 1;
  return std::optional(KV8_TRY(metadata.integer(key, 0, last)));
}

Json added_tokens(const Vocabulary& vocabulary) {
  Json added = Json::array();
  for (std::size_t id = 0; id < vocabulary.tokens->size(); ++id) {
    const std::int64_t type = vocabulary.type(id);
    if (type != kUnknown && type != kControl && type != kUserDefined) continue;
    added.push_back({{"id", id},
                     {"content", (*vocabulary.tokens)[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", type != kUserDefined}});
  }
  return added;
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json pre_tokenizer_json(const PreTokenizerKind& kind) {
  if (!kind.digits && kind.regex.empty()) return byte_level(false, true);
  Json first = {{"type", "Digits"}, {"individual_digits", true}};
  if (!kind.regex.empty()) {
    first = {{"type", "Split"},
             {"pattern", {{"Regex", kind.regex}}},
             {"behavior", "Isolated"},
             {"invert", false}};
  }
  return {{"type", "Sequence"},
          {"pretokenizers", Json::array({first, byte_level(false, kind.regex.empty())})}};
}

/// Adds BOS and EOS around every text, as far as the file wants it; null if neither.
Result<Json> post_processor_json(const GgufMetadata& metadata, const Vocabulary& vocabulary,
                                 bool add_bos) {
  Json before = Json::array(), after = Json::array(), specials = Json::object();
  const auto add = [&](std::string_view name, bool by_default, Json& side) -> Status {
    const std::string key = fmt::format("tokenizer.ggml.add_{}_token", name);
    if (!KV8_TRY(metadata.flag_or(key, by_default))) return {};
    const auto id = KV8_TRY(special_id(metadata, name, vocabulary));
    if (!id) return bad_input("{}: {} without a token id", metadata.source(), key);
    const std::string& token = (*vocabulary.tokens)[static_cast<std::size_t>(*id)];
    side.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    specials[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
    return {};
  };
  KV8_TRY(add("bos", add_bos, before));
  KV8_TRY(add("eos", false, after));
  if (specials.empty()) return Json(nullptr);
  const auto around = [&](Json sides, std::string_view sequence, int type_id) {
    for (Json* side : {&before, &after}) {
      if (side == &after) {
        sides.push_back({{"Sequence", {{"id", sequence}, {"type_id", type_id}}}});
      }
      for (Json piece : *side) {
        piece["SpecialToken"]["type_id"] = type_id;
        sides.push_back(std::move(piece));
      }
    }
    return sides;
  };
  const Json single = around(Json::array(), "A", 0);
  return Json{{"type", "TemplateProcessing"},
              {"single", single},
              {"pair", around(single, "B", 1)},
              {"special_tokens", specials}};
}

Result<std::vector<Merge>> listed_merges(const GgufMetadata& metadata,
                                         const Vocabulary& vocabulary) {
  const auto* lines = KV8_TRY(metadata.strings("tokenizer.ggml.merges"));
  if (lines == nullptr) {
    return bad_input("{}: metadata key tokenizer.ggml.merges is missing", metadata.source());
  }
  std::vector<Merge> merges;
  for (std::size_t i = 0; i < lines->size(); ++i) {
    const std::string& line = (*lines)[i];
    const std::size_t space = line.find(' ');
    const bool two = space != std::string::npos && space > 0 && space + 1 < line.size() &&
                     line.find(' ', space + 1) == std::string::npos;
    const std::string left = line.substr(0, space), right = two ? line.substr(space + 1) : "";
    if (!two || !vocabulary.ids.contains(left) || !vocabulary.ids.contains(right) ||
        !vocabulary.ids.contains(left + right)) {
      return bad_input("{}: merge {}, \"{}\", is not two tokens that make a third",
                       metadata.source(), i, printable(line));
    }
    merges.emplace_back(left, right);
  }
  return merges;
}

Result<std::vector<Merge>> derived_merges(const GgufMetadata& metadata,
                                          const Vocabulary& vocabulary) {
  const auto* scores = KV8_TRY(metadata.numbers("tokenizer.ggml.scores"));
  if (scores == nullptr || scores->size() != vocabulary.tokens->size()) {
    return bad_input("{}: tokenizer.ggml.scores has {} entries, expected {}", metadata.source(),
                     scores == nullptr ? 0 : scores->size(), vocabulary.tokens->size());
  }
  std::vector<ScoredPiece> pieces;
  for (std::size_t id = 0; id < vocabulary.tokens->size(); ++id) {
    if (vocabulary.type(id) != kNormal) continue;
    if (!std::isfinite((*scores)[id])) {
      return bad_input("{}: tokenizer.ggml.scores: entry {} is {}", metadata.source(), id,
                       (*scores)[id]);
    }
    pieces.push_back({(*vocabulary.tokens)[id], (*scores)[id], static_cast<std::int32_t>(id)});
  }
  return merges_from_scores(pieces);
}

/// The whole file; vocabulary and merges are appended as text.
std::string assemble(Json head, Json model, const Vocabulary& vocabulary,
                     const std::vector<Merge>& merges) {
  std::string text = head.dump(2);
  text.erase(text.size() - 2);  // "\n}"
  std::string fields = model.dump(2);
  fields.erase(fields.size() - 2);
  text += ",\n  \"model\": " + fields + ",\n  \"vocab\": {";
  const char* separator = "\n";
  for (std::size_t id = 0; id < vocabulary.tokens->size(); ++id) {
    if (vocabulary.type(id) == kUnused) continue;
    text += fmt::format("{}    {}: {}", separator, Json((*vocabulary.tokens)[id]).dump(), id);
    separator = ",\n";
  }
  text += "\n  },\n  \"merges\": [";
  separator = "\n";
  for (const auto& [left, right] : merges) {
    text += fmt::format("{}    [{}, {}]", separator, Json(left).dump(), Json(right).dump());
    separator = ",\n";
  }
  return text + "\n  ]\n  }\n}\n";
}

Json tokenizer_head(const Json& added, Json normalizer, Json pre_tokenizer, Json post_processor,
                    Json decoder) {
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"normalizer", std::move(normalizer)},
          {"pre_tokenizer", std::move(pre_tokenizer)},
          {"post_processor", std::move(post_processor)},
          {"decoder", std::move(decoder)}};
}

Json bpe_model(Json unk_token, bool sentencepiece, bool ignore_merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", std::move(unk_token)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", sentencepiece},
          {"byte_fallback", sentencepiece},
          {"ignore_merges", ignore_merges}};
}

Result<std::string> byte_level_tokenizer(const GgufMetadata& metadata, const Vocabulary& vocabulary,
                                         const PreTokenizerKind& kind) {
  const Json normalizer = kind.nfc ? Json{{"type", "NFC"}} : Json(nullptr);
  const auto post_processor = KV8_TRY(post_processor_json(metadata, vocabulary, kind.add_bos));
  const Json head = tokenizer_head(added_tokens(vocabulary), normalizer, pre_tokenizer_json(kind),
                                   post_processor, byte_level(true, true));
  auto merges = KV8_TRY(listed_merges(metadata, vocabulary));
  return assemble(head, bpe_model(nullptr, false, kind.ignore_merges), vocabulary,
                  std::move(merges));
}

/// Spaces become U+2581, one of which goes before the text; characters without a token become byte
/// tokens.
Result<std::string> sentencepiece_tokenizer(const GgufMetadata& metadata,
                                            const Vocabulary& vocabulary) {
  constexpr const char* kSpace = "\u2581";
  const bool prefix = KV8_TRY(metadata.flag_or("tokenizer.ggml.add_space_prefix", true));
  Json normalizers = Json::array();
  if (prefix) normalizers.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  Json decoders = Json::array();
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  const auto unknown = KV8_TRY(special_id(metadata, "unknown", vocabulary));
  const Json unk = (*vocabulary.tokens)[static_cast<std::size_t>(unknown.value_or(0))];
  const auto post_processor = KV8_TRY(post_processor_json(metadata, vocabulary, true));
  const Json head =
      tokenizer_head(added_tokens(vocabulary), {{"type", "Sequence"}, {"normalizers", normalizers}},
                     nullptr, post_processor, {{"type", "Sequence"}, {"decoders", decoders}});
  auto merges = KV8_TRY(derived_merges(metadata, vocabulary));
  return assemble(head, bpe_model(unk, true, false), vocabulary, std::move(merges));
}

Result<Json> tokenizer_config(const GgufMetadata& metadata, const Vocabulary& vocabulary,
                              const Json& config, std::string_view tokenizer_class, bool add_bos,
                              bool add_prefix_space) {
  Json out = Json::object();
  out["add_bos_token"] = KV8_TRY(metadata.flag_or("tokenizer.ggml.add_bos_token", add_bos));
  if (metadata.has("tokenizer.ggml.add_eos_token")) {
    out["add_eos_token"] = KV8_TRY(metadata.flag_or("tokenizer.ggml.add_eos_token", false));
  }
  out["add_prefix_space"] = add_prefix_space;
  Json::object_t decoder;  // appended to directly: ids do not repeat, and look-ups are linear
  for (Json added : added_tokens(vocabulary)) {
    const std::string id = added["id"].dump();
    added.erase("id");
    decoder.emplace_back(id, std::move(added));
  }
  out["added_tokens_decoder"] = std::move(decoder);
  for (const auto& [name, key] :
       std::array<std::pair<const char*, const char*>, 4>{{{"bos", "bos_token"},
                                                           {"eos", "eos_token"},
                                                           {"padding", "pad_token"},
                                                           {"unknown", "unk_token"}}}) {
    const auto id = KV8_TRY(special_id(metadata, name, vocabulary));
    if (id) out[key] = (*vocabulary.tokens)[static_cast<std::size_t>(*id)];
  }
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  if (metadata.has(kTemplate)) {
    out["chat_template"] = KV8_TRY(metadata.string(kTemplate));
    if (!valid_utf8(out["chat_template"].get_ref<const std::string&>())) {
      return bad_input("{}: {} is not UTF-8", metadata.source(), kTemplate);
    }
  }
  out["clean_up_tokenization_spaces"] = false;
  out["model_max_length"] = config["max_position_embeddings"];
  out["tokenizer_class"] = tokenizer_class;
  return out;
}

}  // namespace

Result<ImportedTokenizer> imported_tokenizer(const GgufFile& file, const Json& config,
                                             const Reporter& reporter) {
  const GgufMetadata metadata(file);
  const std::string model = KV8_TRY(metadata.string("tokenizer.ggml.model"));
  if (model != "gpt2" && model != "llama") {
    return unsupported(
        "{}: tokenizer.ggml.model \"{}\" is not supported; supported are gpt2, llama",
        metadata.source(), printable(model));
  }
  const Vocabulary vocabulary =
      KV8_TRY(read_vocabulary(metadata, config["vocab_size"].get<std::int64_t>()));
  ImportedTokenizer result;
  if (model == "llama") {
    const bool prefix = KV8_TRY(metadata.flag_or("tokenizer.ggml.add_space_prefix", true));
    result.tokenizer_json = KV8_TRY(sentencepiece_tokenizer(metadata, vocabulary));
    result.tokenizer_config =
        KV8_TRY(tokenizer_config(metadata, vocabulary, config, "LlamaTokenizer", true, prefix));
    return result;
  }
  const PreTokenizerKind* kind = KV8_TRY(find_pre_tokenizer(metadata, reporter));
  result.tokenizer_json = KV8_TRY(byte_level_tokenizer(metadata, vocabulary, *kind));
  result.tokenizer_config = KV8_TRY(
      tokenizer_config(metadata, vocabulary, config, kind->tokenizer_class, kind->add_bos, false));
  return result;
}

}  // namespace kv8::io
