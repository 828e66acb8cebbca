#include "text/post_processor.h"

#include "base/json.h"
#include "text/bpe.h"

namespace kv8::text {
namespace {

constexpr std::size_t kMaxTokens = 1024;

/// The ids that the template's special token `name` stands for.
Status append_ids(const Json& specials, const std::string& name, std::string_view source,
                  std::vector<TokenId>& out) {
  const auto entry = specials.find(name);
  if (entry == specials.end() || !entry->is_object() || !entry->contains("ids") ||
      !entry->at("ids").is_array()) {
    return bad_input("{}: `special_tokens` has no ids for `{}`", source, name);
  }
  for (const Json& id : entry->at("ids")) {
    const std::int64_t value = KV8_TRY(json_int(Json{{"ids", id}}, "ids", source, 0, Bpe::kMaxId));
    if (out.size() >= kMaxTokens) return bad_input("{}: too many tokens", source);
    out.push_back(static_cast<TokenId>(value));
  }
  return {};
}

}  // namespace

Result<PostProcessor> PostProcessor::parse(const Json& json, std::string_view source) {
  PostProcessor result;
  if (!json.is_null()) KV8_TRY(result.add(json, source));
  return result;
}

Status PostProcessor::add(const Json& json, std::string_view source) {
  const std::string type = KV8_TRY(json_string(json, "type", source));
  if (type == "ByteLevel") return {};  // it only moves offsets
  if (type == "TemplateProcessing") return add_template(json, source);
  if (type != "Sequence") {
    return unsupported(
        "{}: type `{}` is not supported (supported: TemplateProcessing, ByteLevel, Sequence)",
        source, type);
  }
  const auto list = json.find("processors");
  if (list == json.end() || !list->is_array()) {
    return bad_input("{}: a Sequence needs the list `processors`", source);
  }
  for (const Json& item : *list) KV8_TRY(add(item, source));
  return {};
}

Status PostProcessor::add_template(const Json& json, std::string_view source) {
  const Json single = json.value("single", Json());
  const Json specials = json.value("special_tokens", Json::object());
  if (!single.is_array() || !specials.is_object()) {
    return bad_input(
        "{}: TemplateProcessing needs the list `single` and the object "
        "`special_tokens`",
        source);
  }
  std::vector<TokenId> front, back;
  bool seen_text = false;
  for (const Json& piece : single) {
    if (piece.is_object() && piece.contains("SpecialToken")) {
      const std::string name = KV8_TRY(json_string(piece["SpecialToken"], "id", source));
      KV8_TRY(append_ids(specials, name, source, seen_text ? back : front));
    } else if (piece.is_object() && piece.contains("Sequence") && !seen_text) {
      const std::string name = KV8_TRY(json_string(piece["Sequence"], "id", source));
      if (name != "A") return unsupported("{}: sequence `{}` in `single`", source, name);
      seen_text = true;
    } else {
      return unsupported("{}: `single` must hold one Sequence and SpecialTokens", source);
    }
  }
  if (!seen_text) return unsupported("{}: `single` must hold one Sequence", source);
  // An outer template wraps what an inner one made.
  before.insert(before.begin(), front.begin(), front.end());
  behind.insert(behind.end(), back.begin(), back.end());
  return {};
}

}  // namespace kv8::text
