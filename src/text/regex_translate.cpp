// The differences between Oniguruma's Ruby syntax and PCRE2's that matter here:
//   \s \w \b   exact Unicode sets (PCRE2's \s has U+180E, its \w lacks marks)
//   \p{Han}   the script, not its extensions
//   \h \v \uXXXX   hex digit, vertical tab, code point
//   {n,m}+     not possessive in Ruby; x{,m} is a quantifier in Ruby alone
//   [a[b]&&c]  nested classes and intersections
//   (?i) in the middle, (*VERB), recursion, callouts, conditions
#include <algorithm>

#include "text/pattern.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

/// Oniguruma counts the superscripts and fractions of Latin-1 among \w.
std::string word_class() { return std::string(kWordClass) + R"(\xB2\xB3\xB9\xBC-\xBE)"; }

class Translator {
 public:
  Translator(std::string_view in, std::string_view source) : in_(in), source_(source) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        KV8_TRY(escape());
      } else if (c == '[') {
        KV8_TRY(bracket());
      } else if (c == '(') {
        KV8_TRY(group());
      } else if (c == '{') {
        KV8_TRY(interval());
      } else {
        out_ += c;
        ++at_;
      }
    }
    return std::move(out_);
  }

 private:
  Error refuse(std::string_view what) const {
    return unsupported("{}: regular expression `{}`: {} is not supported", source_, in_, what);
  }
  char peek(std::size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  Status escape() {
    static const std::string word = fmt::format("[{}]", word_class());
    const char c = peek(1);
    if (c == 's' || c == 'S') {
      out_ += fmt::format("[{}{}]", c == 's' ? "" : "^", kWhiteSpaceClass);
    } else if (c == 'w' || c == 'W') {
      out_ += fmt::format("[{}{}]", c == 'w' ? "" : "^", word_class());
    } else if (c == 'b') {
      out_ += fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
    } else if (c == 'B') {
      out_ += fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
    } else if (c == 'A' || c == 'z' || c == 'Z') {
      out_ += in_.substr(at_, 2);
    } else {
      return common_escape(false);
    }
    at_ += 2;
    return {};
  }

  /// Escapes that mean the same inside and outside of brackets.
  Status common_escape(bool in_class) {
    const char c = peek(1);
    if (c == '\0') return refuse("a backslash at the end");
    if (c == 'p' || c == 'P') return property();
    if (c == 'x') {
      const bool braced = peek(2) == '{';
      const std::size_t close = braced ? in_.find('}', at_) : at_ + 1;
      if (close == std::string_view::npos) return refuse("an unclosed brace");
      out_ += in_.substr(at_, close + 1 - at_);
      at_ = close + 1;
      return {};
    }
    if (c == 'u') {
      const std::string_view digits = in_.substr(std::min(at_ + 2, in_.size()), 4);
      if (digits.size() != 4 ||
          digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
        return refuse("\\u without four hexadecimal digits");
      }
      out_ += "\\x{" + std::string(digits) + "}";
      at_ += 6;
      return {};
    }
    if (c == 'h' || c == 'H') {
      if (in_class && c == 'H') return refuse("\\H inside brackets");
      out_ += in_class ? "0-9a-fA-F" : c == 'h' ? "[0-9a-fA-F]" : "[^0-9a-fA-F]";
    } else if (c == 'v') {
      out_ += "\\x0B";
    } else if (std::string_view("dDnrtfae").find(c) != std::string_view::npos) {
      out_ += in_.substr(at_, 2);
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      out_ += c;  // a backslash before a character that needs none
    } else if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      return refuse("the escape \\" + std::string(1, c));
    } else {
      out_ += in_.substr(at_, 2);
    }
    at_ += 2;
    return {};
  }

  /// \p{…}. A script's name means Script_Extensions to PCRE2, but Script here.
  Status property() {
    const std::size_t close = in_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) return refuse("\\p without braces");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    bool negative = peek(1) == 'P';
    if (!name.empty() && name[0] == '^') {
      negative = !negative;
      name.remove_prefix(1);
    }
    const bool is_category = name.size() <= 2 || name == "Any";
    out_ += fmt::format("\\{}{{{}{}}}", negative ? 'P' : 'p', is_category ? "" : "sc:", name);
    at_ = close + 1;
    return {};
  }

  Status bracket() {
    out_ += '[';
    ++at_;
    if (peek(0) == '^') {
      out_ += '^';
      ++at_;
    }
    if (peek(0) == ']') return refuse("an empty bracket expression");
    for (;;) {
      const char c = peek(0);
      if (at_ >= in_.size()) return refuse("an unclosed bracket");
      if (c == ']') break;
      if (c == '[') return refuse("`[` inside brackets");
      if (c == '&' && peek(1) == '&') return refuse("&& inside brackets");
      if (c != '\\') {
        out_ += c;
        ++at_;
        continue;
      }
      const char next = peek(1);
      if (next == 's' || next == 'S' || next == 'w') {
        out_ += next == 'w' ? word_class()
                            : std::string(next == 's' ? kWhiteSpaceClass : kNotWhiteSpaceClass);
        at_ += 2;
      } else if (next == 'W' || next == 'b' || next == 'B') {
        return refuse("the escape \\" + std::string(1, next) + " inside brackets");
      } else {
        KV8_TRY(common_escape(true));
      }
    }
    out_ += ']';
    ++at_;
    return {};
  }

  Status group() {
    if (peek(1) == '*') return refuse("(*");
    if (peek(1) != '?') {
      out_ += '(';
      ++at_;
      return {};
    }
    const std::string_view rest = in_.substr(at_ + 2);
    for (const std::string_view open : {":", "=", "!", "<=", "<!", ">"}) {
      if (rest.substr(0, open.size()) == open) {
        out_ += "(?" + std::string(open);
        at_ += 2 + open.size();
        return {};
      }
    }
    if (rest.substr(0, 2) == "i:" || (at_ == 0 && rest.substr(0, 2) == "i)")) {
      out_ += in_.substr(at_, 4);
      at_ += 4;
      return {};
    }
    return refuse("(?" + std::string(rest.substr(0, 1)));
  }

  Status interval() {
    const std::size_t close = in_.find('}', at_);
    const std::string_view body =
        close == std::string_view::npos ? "" : in_.substr(at_ + 1, close - at_ - 1);
    const bool digits_only =
        !body.empty() && body.find_first_not_of("0123456789,") == std::string_view::npos;
    if (!digits_only) {  // a literal brace in both
      out_ += "\\{";
      ++at_;
      return {};
    }
    if (body.front() == ',') return refuse("{,n}");
    if (close + 1 < in_.size() && in_[close + 1] == '+') return refuse("{n,m}+");
    out_ += in_.substr(at_, close + 1 - at_);
    at_ = close + 1;
    return {};
  }

  std::string_view in_, source_;
  std::size_t at_ = 0;
  std::string out_;
};

}  // namespace

Result<std::string> translate_regex(std::string_view expression, std::string_view source) {
  return Translator(expression, source).run();
}

}  // namespace kv8::text
