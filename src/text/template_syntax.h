// The subset of Jinja that chat templates are written in, as a syntax tree.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace kv8::text {

struct Expression {
  enum class Kind {
    kString,  // text
    kNumber,  // number
    kTrue,
    kFalse,
    kNone,
    kName,       // text
    kAttribute,  // args[0].text
    kItem,       // args[0][args[1]]
    kSlice,      // args[0][args[1]:args[2]:args[3]], the last three may be null
    kCall,       // args[0](args[1…], named…)
    kFilter,     // args[0] | text(args[1…], named…)
    kTest,       // args[0] is text(args[1…])
    kNot,
    kNegate,
    kBinary,  // args[0] text args[1]
    kAnd,
    kOr,
    kConditional,  // args[1] if args[0] else args[2], which may be null
    kList,
    kDict,  // keys and values in turn
  };
  Kind kind;
  std::string text;
  std::int64_t number = 0;
  std::vector<std::unique_ptr<Expression>> args;
  std::vector<std::pair<std::string, std::unique_ptr<Expression>>> named;
};
using ExpressionPtr = std::unique_ptr<Expression>;

struct Statement;
using Block = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // {{ expression }}
    kIf,        // branches: condition (null: else) and block
    kFor,       // names in expression [if condition]: body, else otherwise
    kSet,       // names = expression, or names[0].text = expression where text is not empty
    kSetBlock,  // names[0] = rendered body
    kMacro,     // text(names…), defaults beside names (null: none): body
    kBreak,
    kContinue,
  };
  Kind kind;
  std::string text;
  ExpressionPtr expression, condition;
  std::vector<std::string> names;
  std::vector<ExpressionPtr> defaults;
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  Block body, otherwise;
};

/// Counts a level of nesting while it lives.
class Nesting {
 public:
  explicit Nesting(int& depth) : depth_(++depth) {}
  ~Nesting() { --depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  int& depth_;
};

/// Parses a template as transformers does: trim_blocks and lstrip_blocks on, one newline at the end
/// dropped. Statements outside of the subset are refused; unknown filters, tests and functions are
/// refused only where they are evaluated.
Result<Block> parse_template(std::string_view source);

}  // namespace kv8::text
