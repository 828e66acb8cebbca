#include <algorithm>

#include "text/template_lexer.h"
#include "text/template_syntax.h"

namespace kv8::text {
namespace {

using Kind = Expression::Kind;
using Token = TemplateToken;

constexpr int kMaxDepth = 100;

template <typename... Args>
ExpressionPtr make(Kind kind, std::string text, Args... args) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->text = std::move(text);
  (node->args.push_back(std::move(args)), ...);
  return node;
}

/// Parses the tokens of one tag; precedences as in Jinja.
class ExpressionParser {
 public:
  explicit ExpressionParser(const std::vector<Token>& tokens) : tokens_(tokens) {}

  const Token& peek(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  bool at_end() const { return peek().kind == Token::Kind::kEnd; }
  bool is_operator(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == Token::Kind::kOperator && peek(ahead).text == text;
  }
  bool is_word(std::string_view text, std::size_t ahead = 0) const {
    return peek(ahead).kind == Token::Kind::kName && peek(ahead).text == text;
  }
  bool take_operator(std::string_view text) {
    if (!is_operator(text)) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view text) {
    if (!is_word(text)) return false;
    ++at_;
    return true;
  }
  Status expect_operator(std::string_view text) {
    if (take_operator(text)) return {};
    return bad_input("expected `{}`", text);
  }
  Result<std::string> name() {
    if (peek().kind != Token::Kind::kName) return bad_input("expected a name");
    return tokens_[at_++].text;
  }
  Status expect_end() const {
    if (at_end()) return {};
    return unsupported("`{}` is not understood here", peek().text);
  }

  Result<ExpressionPtr> expression() {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    ExpressionPtr value = KV8_TRY(alternation());
    while (take_word("if")) {
      ExpressionPtr condition = KV8_TRY(alternation());
      ExpressionPtr other;
      if (take_word("else")) other = KV8_TRY(expression());
      value =
          make(Kind::kConditional, "", std::move(condition), std::move(value), std::move(other));
    }
    return value;
  }

  /// Without a trailing `if`, which belongs to the statement: for x in xs if …
  Result<ExpressionPtr> alternation() {
    ExpressionPtr left = KV8_TRY(conjunction());
    while (take_word("or")) {
      ExpressionPtr right = KV8_TRY(conjunction());
      left = make(Kind::kOr, "", std::move(left), std::move(right));
    }
    return left;
  }

 private:
  Result<ExpressionPtr> conjunction() {
    ExpressionPtr left = KV8_TRY(negation());
    while (take_word("and")) {
      ExpressionPtr right = KV8_TRY(negation());
      left = make(Kind::kAnd, "", std::move(left), std::move(right));
    }
    return left;
  }

  Result<ExpressionPtr> negation() {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    if (take_word("not")) {
      ExpressionPtr operand = KV8_TRY(negation());
      return make(Kind::kNot, "", std::move(operand));
    }
    return comparison();
  }

  Result<ExpressionPtr> comparison() {
    ExpressionPtr left = KV8_TRY(sum());
    for (bool chained = false;; chained = true) {
      std::string op;
      for (const std::string_view candidate : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && take_operator(candidate)) op = candidate;
      }
      if (op.empty() && take_word("in")) op = "in";
      if (op.empty() && is_word("not") && is_word("in", 1)) {
        at_ += 2;
        op = "not in";
      }
      if (op.empty()) return left;
      if (chained) return unsupported("chained comparisons are not supported");
      ExpressionPtr right = KV8_TRY(sum());
      left = make(Kind::kBinary, op, std::move(left), std::move(right));
    }
  }

  Result<ExpressionPtr> sum() {
    ExpressionPtr left = KV8_TRY(concatenation());
    while (is_operator("+") || is_operator("-")) {
      const std::string op = tokens_[at_++].text;
      ExpressionPtr right = KV8_TRY(concatenation());
      left = make(Kind::kBinary, op, std::move(left), std::move(right));
    }
    return left;
  }

  Result<ExpressionPtr> concatenation() {
    ExpressionPtr left = KV8_TRY(product());
    while (take_operator("~")) {
      ExpressionPtr right = KV8_TRY(product());
      left = make(Kind::kBinary, "~", std::move(left), std::move(right));
    }
    return left;
  }

  Result<ExpressionPtr> product() {
    ExpressionPtr left = KV8_TRY(unary());
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
      const std::string op = tokens_[at_++].text;
      ExpressionPtr right = KV8_TRY(unary());
      left = make(Kind::kBinary, op, std::move(left), std::move(right));
    }
    return left;
  }

  Result<ExpressionPtr> unary() {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    if (take_operator("-")) {
      ExpressionPtr operand = KV8_TRY(unary());
      return make(Kind::kNegate, "", std::move(operand));
    }
    return postfix(KV8_TRY(primary()));
  }

  Result<ExpressionPtr> postfix(ExpressionPtr value) {
    for (;;) {
      if (take_operator(".")) {
        const std::string member = KV8_TRY(name());
        value = make(Kind::kAttribute, member, std::move(value));
      } else if (take_operator("[")) {
        value = KV8_TRY(subscript(std::move(value)));
      } else if (is_operator("(")) {
        value = make(Kind::kCall, "", std::move(value));
        KV8_TRY(arguments(*value));
      } else if (take_operator("|")) {
        const std::string member = KV8_TRY(name());
        value = make(Kind::kFilter, member, std::move(value));
        if (is_operator("(")) KV8_TRY(arguments(*value));
      } else if (take_word("is")) {
        const bool negated = take_word("not");
        const std::string member = KV8_TRY(name());
        value = make(Kind::kTest, member, std::move(value));
        if (is_operator("(")) KV8_TRY(arguments(*value));
        if (negated) value = make(Kind::kNot, "", std::move(value));
      } else {
        return value;
      }
    }
  }

  Result<ExpressionPtr> subscript(ExpressionPtr value) {
    ExpressionPtr bounds[3];
    bool is_slice = false;
    int index = 0;
    while (!is_operator("]")) {
      if (take_operator(":")) {
        is_slice = true;
        if (++index == 3) return bad_input("a slice has at most three parts");
      } else {
        if (bounds[index] != nullptr) return bad_input("expected `]`");
        bounds[index] = KV8_TRY(expression());
      }
    }
    KV8_TRY(expect_operator("]"));
    if (is_slice) {
      return make(Kind::kSlice, "", std::move(value), std::move(bounds[0]), std::move(bounds[1]),
                  std::move(bounds[2]));
    }
    if (bounds[0] == nullptr) return bad_input("an empty subscript");
    return make(Kind::kItem, "", std::move(value), std::move(bounds[0]));
  }

  Status arguments(Expression& call) {
    KV8_TRY(expect_operator("("));
    while (!take_operator(")")) {
      if (peek().kind == Token::Kind::kName && is_operator("=", 1)) {
        std::string key = KV8_TRY(name());
        ++at_;
        ExpressionPtr argument = KV8_TRY(expression());
        call.named.emplace_back(std::move(key), std::move(argument));
      } else {
        call.args.push_back(KV8_TRY(expression()));
      }
      if (!is_operator(")")) KV8_TRY(expect_operator(","));
    }
    return {};
  }

  Result<ExpressionPtr> primary() {
    const Token token = peek();
    if (token.kind == Token::Kind::kEnd) return bad_input("an expression is missing");
    ++at_;
    if (token.kind == Token::Kind::kString) {
      std::string text = token.text;  // neighbouring literals are one
      while (peek().kind == Token::Kind::kString) text += tokens_[at_++].text;
      return make(Kind::kString, std::move(text));
    }
    if (token.kind == Token::Kind::kNumber) {
      ExpressionPtr value = make(Kind::kNumber, "");
      value->number = token.number;
      return value;
    }
    if (token.kind == Token::Kind::kName) {
      if (token.text == "true" || token.text == "True") return make(Kind::kTrue, "");
      if (token.text == "false" || token.text == "False") return make(Kind::kFalse, "");
      if (token.text == "none" || token.text == "None") return make(Kind::kNone, "");
      return make(Kind::kName, token.text);
    }
    if (token.text == "(") {
      ExpressionPtr value = KV8_TRY(expression());
      KV8_TRY(expect_operator(")"));
      return value;
    }
    if (token.text == "[" || token.text == "{") return collection(token.text == "{");
    return bad_input("unexpected `{}`", token.text);
  }

  Result<ExpressionPtr> collection(bool is_dict) {
    const std::string_view close = is_dict ? "}" : "]";
    ExpressionPtr value = make(is_dict ? Kind::kDict : Kind::kList, "");
    while (!take_operator(close)) {
      value->args.push_back(KV8_TRY(expression()));
      if (is_dict) {
        KV8_TRY(expect_operator(":"));
        value->args.push_back(KV8_TRY(expression()));
      }
      if (!is_operator(close)) KV8_TRY(expect_operator(","));
    }
    return value;
  }

  const std::vector<Token>& tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

class TemplateParser {
 public:
  explicit TemplateParser(std::vector<TemplatePart> parts) : parts_(std::move(parts)) {}

  Result<Block> run() {
    Block block = KV8_TRY(body({}));
    if (at_ < parts_.size()) return bad_input("`{}` closes nothing", keyword());
    return block;
  }

 private:
  /// The keyword of the statement at hand; "" for what is no statement.
  std::string keyword() const {
    const TemplatePart& part = parts_[at_];
    return part.kind == TemplatePart::Kind::kStatement ? part.tokens[0].text : "";
  }

  /// Statements up to one of `ends`, which is left to the caller.
  Result<Block> body(const std::vector<std::string_view>& ends) {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    Block block;
    while (at_ < parts_.size()) {
      TemplatePart& part = parts_[at_];
      const std::string word = keyword();
      const bool closes = word == "elif" || word == "else" || word.rfind("end", 0) == 0;
      if (part.kind == TemplatePart::Kind::kStatement && closes) break;
      ++at_;
      Statement statement{};
      if (part.kind == TemplatePart::Kind::kText) {
        statement.kind = Statement::Kind::kText;
        statement.text = std::move(part.text);
      } else {
        ExpressionParser parser(part.tokens);
        if (part.kind == TemplatePart::Kind::kOutput) {
          statement.kind = Statement::Kind::kOutput;
          statement.expression = KV8_TRY(parser.expression());
          KV8_TRY(parser.expect_end());
        } else if (word == "generation") {  // marks what a model is trained on
          Block inner = KV8_TRY(body({"endgeneration"}));
          ++at_;
          std::move(inner.begin(), inner.end(), std::back_inserter(block));
          continue;
        } else {
          KV8_TRY(this->statement(word, parser, statement));
        }
      }
      block.push_back(std::move(statement));
    }
    if (ends.empty()) return block;
    if (at_ == parts_.size()) return bad_input("`{}` is missing", ends.back());
    if (std::find(ends.begin(), ends.end(), keyword()) == ends.end()) {
      return bad_input("`{}` where `{}` was expected", keyword(), ends.back());
    }
    return block;
  }

  Status statement(const std::string& word, ExpressionParser& parser, Statement& out) {
    if (!parser.take_word(word)) return bad_input("a statement without a keyword");
    if (word == "if") return if_statement(parser, out);
    if (word == "for") return for_statement(parser, out);
    if (word == "set") return set_statement(parser, out);
    if (word == "macro") return macro_statement(parser, out);
    if (word == "break" || word == "continue") {
      out.kind = word == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      return parser.expect_end();
    }
    return unsupported("the statement `{}` is not supported", word);
  }

  Status if_statement(ExpressionParser& first, Statement& out) {
    out.kind = Statement::Kind::kIf;
    ExpressionPtr condition = KV8_TRY(first.expression());
    KV8_TRY(first.expect_end());
    for (;;) {
      Block block = KV8_TRY(body({"elif", "else", "endif"}));
      const bool was_else = condition == nullptr;
      out.branches.emplace_back(std::move(condition), std::move(block));
      ExpressionParser next(parts_[at_].tokens);
      const std::string word = keyword();
      ++at_;
      if (word == "endif") return {};
      if (was_else) return bad_input("`{}` behind `else`", word);
      next.take_word(word);
      condition = nullptr;
      if (word == "elif") condition = KV8_TRY(next.expression());
      KV8_TRY(next.expect_end());
    }
  }

  static Result<std::vector<std::string>> name_list(ExpressionParser& parser) {
    std::vector<std::string> names;
    do {
      names.push_back(KV8_TRY(parser.name()));
    } while (parser.take_operator(","));
    return names;
  }

  Status for_statement(ExpressionParser& parser, Statement& out) {
    out.kind = Statement::Kind::kFor;
    out.names = KV8_TRY(name_list(parser));
    if (!parser.take_word("in")) return bad_input("`for` without `in`");
    out.expression = KV8_TRY(parser.alternation());
    if (parser.take_word("if")) out.condition = KV8_TRY(parser.expression());
    KV8_TRY(parser.expect_end());
    out.body = KV8_TRY(body({"else", "endfor"}));
    const bool has_else = keyword() == "else";
    ++at_;
    if (has_else) {
      out.otherwise = KV8_TRY(body({"endfor"}));
      ++at_;
    }
    return {};
  }

  Status set_statement(ExpressionParser& parser, Statement& out) {
    out.kind = Statement::Kind::kSet;
    out.names = KV8_TRY(name_list(parser));
    if (out.names.size() == 1 && parser.take_operator(".")) out.text = KV8_TRY(parser.name());
    if (parser.take_operator("=")) {
      out.expression = KV8_TRY(parser.expression());
      return parser.expect_end();
    }
    KV8_TRY(parser.expect_end());
    if (out.names.size() != 1 || !out.text.empty()) return bad_input("`set` without a value");
    out.kind = Statement::Kind::kSetBlock;
    out.body = KV8_TRY(body({"endset"}));
    ++at_;
    return {};
  }

  Status macro_statement(ExpressionParser& parser, Statement& out) {
    out.kind = Statement::Kind::kMacro;
    out.text = KV8_TRY(parser.name());
    KV8_TRY(parser.expect_operator("("));
    while (!parser.take_operator(")")) {
      out.names.push_back(KV8_TRY(parser.name()));
      ExpressionPtr value;
      if (parser.take_operator("=")) value = KV8_TRY(parser.expression());
      out.defaults.push_back(std::move(value));
      if (!parser.is_operator(")")) KV8_TRY(parser.expect_operator(","));
    }
    KV8_TRY(parser.expect_end());
    out.body = KV8_TRY(body({"endmacro"}));
    ++at_;
    return {};
  }

  std::vector<TemplatePart> parts_;
  std::size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Result<Block> parse_template(std::string_view source) {
  return TemplateParser(KV8_TRY(lex_template(source))).run();
}

}  // namespace kv8::text
