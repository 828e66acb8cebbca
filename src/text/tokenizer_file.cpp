// Reads tokenizer.json in one pass. The two large tables go into vectors: a JSON document of a
// hundred thousand keys takes long to build and longer to search.
#include "text/tokenizer_file.h"

#include <algorithm>
#include <vector>

namespace kv8::text {
namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr std::size_t kMaxKeys = 10'000;  // of one object that is not the vocabulary
constexpr std::size_t kMaxEntries = 1 << 24;

class Reader : public nlohmann::json_sax<Json> {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  TokenizerFile file;
  Error failure;           // what the content breaks, or:
  std::string json_error;  // what the syntax breaks
  std::size_t failed_at = 0;

  bool null() override { return value(Json()); }
  bool boolean(bool v) override { return value(Json(v)); }
  bool number_integer(number_integer_t v) override {
    return mode_ == Mode::kVocab ? vocab_id(v) : value(Json(v));
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (mode_ != Mode::kVocab) return value(Json(v));
    return vocab_id(static_cast<std::int64_t>(std::min<number_unsigned_t>(v, INT64_MAX)));
  }
  bool number_float(number_float_t v, const string_t&) override { return value(Json(v)); }
  bool string(string_t& v) override {
    if (mode_ == Mode::kMerges) return merge_line(v);
    if (mode_ == Mode::kMergePair) return merge_half(v);
    return value(Json(std::move(v)));
  }
  bool binary(binary_t&) override { return fail("binary data"); }

  bool start_object(std::size_t) override {
    if (mode_ != Mode::kDocument) return unexpected();
    if (is_model_entry("vocab")) {
      mode_ = Mode::kVocab;
      return true;
    }
    return open(Json::object());
  }
  bool end_object() override {
    if (mode_ == Mode::kVocab) {
      mode_ = Mode::kDocument;
      return true;
    }
    return close();
  }
  bool start_array(std::size_t) override {
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kMergePair;
      pair_.clear();
      return true;
    }
    if (mode_ != Mode::kDocument) return unexpected();
    if (is_model_entry("merges")) {
      mode_ = Mode::kMerges;
      return true;
    }
    return open(Json::array());
  }
  bool end_array() override {
    if (mode_ == Mode::kMergePair) {
      mode_ = Mode::kMerges;
      if (pair_.size() != 2) return bad_merge("a pair must hold two tokens");
      return add_merge(std::move(pair_[0]), std::move(pair_[1]));
    }
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kDocument;
      return true;
    }
    return close();
  }
  bool key(string_t& name) override {
    if (mode_ == Mode::kVocab) {
      vocab_key_ = std::move(name);
      return true;
    }
    if (open_.back()->size() >= kMaxKeys) return fail("an object with too many keys");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& reason) override {
    failed_at = position;
    const std::string text = reason.what();
    const std::size_t cut = text.find(": ");
    json_error = cut == std::string::npos ? text : text.substr(cut + 2);
    return false;
  }

 private:
  enum class Mode { kDocument, kVocab, kMerges, kMergePair };

  bool fail(std::string_view what) {
    failure = bad_input("{}: {}", source_, what);
    return false;
  }
  bool unexpected() {
    return fail(mode_ == Mode::kVocab ? "`model.vocab` must map tokens to whole numbers"
                                      : "`model.merges` must hold strings or pairs of strings");
  }
  bool bad_merge(std::string_view why) {
    return fail(fmt::format("merge {}: {}", file.tables.merges.size(), why));
  }
  bool is_model_entry(std::string_view name) const {
    return open_.size() == 2 && open_[0]->is_object() && outer_key_ == "model" && key_ == name;
  }

  /// Puts a value where the document stands and returns its place.
  Json* place(Json v) {
    if (open_.empty()) return &(file.rest = std::move(v));
    Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(v));
    parent.push_back(std::move(v));
    return &parent.back();
  }
  bool value(Json v) {
    if (mode_ != Mode::kDocument) return unexpected();
    place(std::move(v));
    return true;
  }
  bool open(Json v) {
    if (open_.size() >= kMaxDepth) return fail("nested deeper than 64 levels");
    if (open_.size() == 1) outer_key_ = key_;
    open_.push_back(place(std::move(v)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  bool vocab_id(std::int64_t id) {
    if (file.tables.vocab.size() >= kMaxEntries) return fail("`model.vocab` is too long");
    file.tables.vocab.emplace_back(std::move(vocab_key_), id);
    return true;
  }
  bool merge_line(const std::string& line) {
    if (line.rfind("#version", 0) == 0) return true;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      return bad_merge(fmt::format("`{}` must be two tokens with one space between", line));
    }
    return add_merge(line.substr(0, space), line.substr(space + 1));
  }
  bool merge_half(std::string& token) {
    if (pair_.size() >= 2) return bad_merge("a pair must hold two tokens");
    pair_.push_back(std::move(token));
    return true;
  }
  bool add_merge(std::string left, std::string right) {
    if (file.tables.merges.size() >= kMaxEntries) return fail("`model.merges` is too long");
    file.tables.merges.emplace_back(std::move(left), std::move(right));
    return true;
  }

  std::string_view source_;
  Mode mode_ = Mode::kDocument;
  std::vector<Json*> open_;
  std::string key_, outer_key_, vocab_key_;
  std::vector<std::string> pair_;
};

}  // namespace

Result<TokenizerFile> parse_tokenizer_file(std::string_view text, std::string_view source) {
  Reader reader(source);
  if (Json::sax_parse(text, &reader)) return std::move(reader.file);
  if (reader.json_error.empty()) return reader.failure;
  const std::size_t byte = std::max<std::size_t>(reader.failed_at, 1) - 1;
  const std::string_view before = text.substr(0, std::min(byte, text.size()));
  return bad_input("{}: line {}, column {}: not valid JSON: {}", source,
                   std::count(before.begin(), before.end(), '\n') + 1,
                   before.size() - (before.rfind('\n') + 1) + 1,  // npos + 1 is 0
                   reader.json_error);
}

}  // namespace kv8::text
