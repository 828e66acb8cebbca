#include "text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/json.h"
#include "text/byte_level.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

int combining_class(utf8proc_int32_t code) {
  return static_cast<int>(utf8proc_get_property(code)->combining_class);
}

void append_decomposed(std::vector<utf8proc_int32_t>& out, char32_t code, utf8proc_option_t how) {
  utf8proc_int32_t buffer[64];
  int last_boundary_class = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code),
                                                         buffer, 64, how, &last_boundary_class);
  KV8_CHECK(count >= 0 && count <= 64, "U+{:04X} decomposes into {} characters",
            static_cast<unsigned>(code), count);
  out.insert(out.end(), buffer, buffer + count);
}

/// Canonical ordering. Not left to utf8proc_decompose, which sorts long runs in quadratic time.
void order_marks(std::vector<utf8proc_int32_t>& codes) {
  for (auto at = codes.begin(); at != codes.end();) {
    if (combining_class(*at) == 0) {
      ++at;
      continue;
    }
    const auto end =
        std::find_if(at, codes.end(), [](auto code) { return combining_class(code) == 0; });
    std::stable_sort(at, end,
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    at = end;
  }
}

void normalize_unicode(std::string& text, bool compatibility, bool compose) {
  // Nothing below U+0300 changes under NFC, and nothing below U+0080 under any form.
  const unsigned char first_changed_byte = compose && !compatibility ? 0xCC : 0x80;
  if (std::none_of(text.begin(), text.end(),
                   [&](char c) { return static_cast<unsigned char>(c) >= first_changed_byte; })) {
    return;
  }
  const auto how = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                  (compatibility ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> codes;
  codes.reserve(text.size() + 1);
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    append_decomposed(codes, c.value, how);
    at += c.length;
  }
  order_marks(codes);
  if (compose) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        codes.data(), static_cast<utf8proc_ssize_t>(codes.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    KV8_CHECK(count >= 0, "composition failed");
    codes.resize(static_cast<std::size_t>(count));
  }
  text.clear();
  for (const utf8proc_int32_t code : codes) append_utf8(text, static_cast<char32_t>(code));
}

std::string lower(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const CodePoint c = decode_utf8(text, at);
    at += c.length;
    if (c.value == 0x130) {
      out += "i\xCC\x87";  // the one character whose lower case is two
    } else {
      append_utf8(out,
                  static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))));
    }
  }
  return out;
}

}  // namespace

Result<Normalizer> Normalizer::parse(const Json& json, std::string_view source) {
  Normalizer normalizer;
  if (!json.is_null()) KV8_TRY(normalizer.add(json, source));
  return normalizer;
}

Status Normalizer::add(const Json& json, std::string_view source) {
  const std::string type = KV8_TRY(json_string(json, "type", source));
  if (type == "Sequence") {
    const auto list = json.find("normalizers");
    if (list == json.end() || !list->is_array()) {
      return bad_input("{}: a Sequence needs the list `normalizers`", source);
    }
    for (const Json& item : *list) KV8_TRY(add(item, source));
    return {};
  }
  Step step{};
  if (type == "NFC") {
    step.kind = Kind::kNfc;
  } else if (type == "NFD") {
    step.kind = Kind::kNfd;
  } else if (type == "NFKC") {
    step.kind = Kind::kNfkc;
  } else if (type == "NFKD") {
    step.kind = Kind::kNfkd;
  } else if (type == "Lowercase") {
    step.kind = Kind::kLowercase;
  } else if (type == "ByteLevel") {
    step.kind = Kind::kByteLevel;
  } else if (type == "Prepend") {
    step.kind = Kind::kPrepend;
    step.text = KV8_TRY(json_string(json, "prepend", source));
  } else if (type == "Replace") {
    step.kind = Kind::kReplace;
    step.pattern = KV8_TRY(Pattern::parse(json.value("pattern", Json()), source));
    step.text = KV8_TRY(json_string(json, "content", source));
  } else if (type == "Strip") {
    step.kind = Kind::kStrip;
    step.left = KV8_TRY(json_bool_or(json, "strip_left", source, true));
    step.right = KV8_TRY(json_bool_or(json, "strip_right", source, true));
  } else {
    return unsupported(
        "{}: type `{}` is not supported (supported: NFC, NFD, NFKC, NFKD, Lowercase, Prepend, "
        "Replace, Strip, ByteLevel, Sequence)",
        source, type);
  }
  growth_ *= step.kind == Kind::kReplace ? step.pattern.growth(step.text) : 1;
  growth_ += step.kind == Kind::kPrepend ? step.text.size() : 0;
  if (growth_ > kMaxGrowth || steps_.size() >= 64) {
    return bad_input("{}: the steps could make text grow more than {}-fold", source, kMaxGrowth);
  }
  steps_.push_back(std::move(step));
  return {};
}

std::string Normalizer::apply(std::string text) const {
  for (const Step& step : steps_) apply_step(step, text);
  return text;
}

void Normalizer::apply_step(const Step& step, std::string& text) {
  switch (step.kind) {
    case Kind::kNfc:
      return normalize_unicode(text, false, true);
    case Kind::kNfd:
      return normalize_unicode(text, false, false);
    case Kind::kNfkc:
      return normalize_unicode(text, true, true);
    case Kind::kNfkd:
      return normalize_unicode(text, true, false);
    case Kind::kLowercase:
      text = lower(text);
      return;
    case Kind::kPrepend:
      if (!text.empty()) text.insert(0, step.text);
      return;
    case Kind::kReplace:
      text = step.pattern.replace_all(text, step.text);
      return;
    case Kind::kStrip:
      if (step.right) text.resize(text.size() - trailing_white_space(text));
      if (step.left) text.erase(0, leading_white_space(text));
      return;
    case Kind::kByteLevel: {
      std::string mapped;
      append_byte_characters(mapped, text);
      text = std::move(mapped);
      return;
    }
  }
}

}  // namespace kv8::text
