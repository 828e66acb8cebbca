#include "text/template_lexer.h"

#include <algorithm>

#include "text/unicode.h"

namespace kv8::text {
namespace {

constexpr std::size_t kMaxSourceBytes = 1 << 18;
constexpr std::size_t kMaxTokens = 1000;  // of one tag: bounds the depth of its tree

bool is_name_start(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    for (std::size_t i = 0; i < source.size(); ++i) {  // every kind of newline is \n
      if (source[i] != '\r') {
        text_ += source[i];
      } else if (i + 1 == source.size() || source[i + 1] != '\n') {
        text_ += '\n';
      }
    }
    if (!text_.empty() && text_.back() == '\n') text_.pop_back();
  }

  Result<std::vector<TemplatePart>> run() {
    while (at_ < text_.size()) {
      const std::size_t tag = next_tag();
      add_text(tag);
      if (tag == text_.size()) break;
      at_ = tag;
      KV8_TRY(read_tag());
    }
    return std::move(parts_);
  }

 private:
  std::size_t next_tag() const {
    for (std::size_t i = at_; i + 1 < text_.size(); ++i) {
      if (text_[i] == '{' && (text_[i + 1] == '{' || text_[i + 1] == '%' || text_[i + 1] == '#')) {
        return i;
      }
    }
    return text_.size();
  }

  /// The text up to the tag at `tag`, less the white space that the tags around it take.
  void add_text(std::size_t tag) {
    std::string_view text = std::string_view(text_).substr(at_, tag - at_);
    if (strip_next_) text.remove_prefix(leading_white_space(text));
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    if (tag < text_.size() && sign == '-') {
      text.remove_suffix(trailing_white_space(text));
    } else if (tag < text_.size() && sign != '+' && text_[tag + 1] != '{') {
      const std::size_t line = text.rfind('\n') + 1;  // 0 if there is none
      const std::string_view indent = text.substr(line);
      if ((line > 0 || line_starting_) && leading_white_space(indent) == indent.size()) {
        text.remove_suffix(indent.size());
      }
    }
    if (text.empty()) return;
    TemplatePart part{TemplatePart::Kind::kText, std::string(text), {}};
    parts_.push_back(std::move(part));
  }

  Status read_tag() {
    const char kind = text_[at_ + 1];
    at_ += 2;
    if (kind == '#') {
      const std::size_t close = text_.find("#}", at_);
      if (close == std::string::npos) return bad_input("an unclosed comment");
      end_tag(close, close > at_ ? text_[close - 1] : '\0', true);
      return {};
    }
    if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
    TemplatePart part{
        kind == '{' ? TemplatePart::Kind::kOutput : TemplatePart::Kind::kStatement, "", {}};
    const char close = kind == '{' ? '}' : '%';
    int depth = 0;  // of brackets: {{ {'a': {}} }}
    for (;;) {
      while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
      if (at_ >= text_.size()) return bad_input("an unclosed tag");
      const bool signed_close = (text_[at_] == '-' || text_[at_] == '+') && closes(at_ + 1, close);
      if (depth == 0 && (signed_close || closes(at_, close))) {
        end_tag(at_ + (signed_close ? 1 : 0), signed_close ? text_[at_] : '\0', kind == '%');
        break;
      }
      TemplateToken token = KV8_TRY(read_token());
      if (token.kind == TemplateToken::Kind::kOperator) {
        if (std::string_view("([{").find(token.text) != std::string_view::npos) ++depth;
        if (std::string_view(")]}").find(token.text) != std::string_view::npos) --depth;
      }
      if (part.tokens.size() >= kMaxTokens) return bad_input("a tag that is too long");
      part.tokens.push_back(std::move(token));
    }
    part.tokens.emplace_back();
    parts_.push_back(std::move(part));
    return {};
  }

  bool closes(std::size_t at, char close) const {
    return at + 1 < text_.size() && text_[at] == close && text_[at + 1] == '}';
  }

  /// Steps behind the tag whose two closing characters are at `close`.
  void end_tag(std::size_t close, char sign, bool takes_newline) {
    at_ = close + 2;
    strip_next_ = sign == '-';
    line_starting_ = false;
    if (strip_next_) {
      const std::size_t blank = leading_white_space(std::string_view(text_).substr(at_));
      line_starting_ = blank > 0 && text_[at_ + blank - 1] == '\n';
    } else if (takes_newline && sign != '+' && at_ < text_.size() && text_[at_] == '\n') {
      ++at_;
      line_starting_ = true;
    }
  }

  Result<TemplateToken> read_token() {
    TemplateToken token;
    const char c = text_[at_];
    if (is_name_start(c)) {
      token.kind = TemplateToken::Kind::kName;
      while (at_ < text_.size() && (is_name_start(text_[at_]) || is_digit(text_[at_]))) {
        token.text += text_[at_++];
      }
      return token;
    }
    if (is_digit(c)) {
      token.kind = TemplateToken::Kind::kNumber;
      while (at_ < text_.size() && is_digit(text_[at_])) {
        if (token.number > 1'000'000'000'000) return bad_input("a number that is too large");
        token.number = token.number * 10 + (text_[at_++] - '0');
      }
      return token;
    }
    if (c == '\'' || c == '"') return read_string(c);
    const std::string two = text_.substr(at_, 2);
    const bool is_pair = two == "==" || two == "!=" || two == "<=" || two == ">=" || two == "//";
    if (!is_pair && std::string_view("()[]{}.,:|+-*/%~<>=").find(c) == std::string_view::npos) {
      return bad_input("unexpected character `{}`", c);
    }
    token.kind = TemplateToken::Kind::kOperator;
    token.text = two.substr(0, is_pair ? 2 : 1);
    at_ += token.text.size();
    return token;
  }

  Result<TemplateToken> read_string(char quote) {
    TemplateToken token;
    token.kind = TemplateToken::Kind::kString;
    for (++at_; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] != '\\') {
        token.text += text_[at_];
        continue;
      }
      if (++at_ == text_.size()) break;
      switch (text_[at_]) {
        case 'n':
          token.text += '\n';
          break;
        case 't':
          token.text += '\t';
          break;
        case 'r':
          token.text += '\r';
          break;
        case '\\':
        case '\'':
        case '"':
          token.text += text_[at_];
          break;
        default:
          return unsupported("the escape \\{} in a string is not supported", text_[at_]);
      }
    }
    if (at_ >= text_.size()) return bad_input("an unclosed string");
    ++at_;
    return token;
  }

  std::string text_;
  std::size_t at_ = 0;
  bool strip_next_ = false;    // the last tag ended with -
  bool line_starting_ = true;  // what comes next starts a line
  std::vector<TemplatePart> parts_;
};

}  // namespace

Result<std::vector<TemplatePart>> lex_template(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return bad_input("{} bytes (at most {} are allowed)", source.size(), kMaxSourceBytes);
  }
  if (!is_valid_utf8(source)) return bad_input("not valid UTF-8");
  return Lexer(source).run();
}

}  // namespace kv8::text
