// Values of the template language.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::text {

struct Statement;

struct TemplateValue {
  enum class Type { kUndefined, kNone, kBool, kNumber, kString, kList, kDict, kMacro };
  using List = std::vector<TemplateValue>;
  using Dict = std::map<std::string, TemplateValue, std::less<>>;

  Type type = Type::kUndefined;
  std::int64_t number = 0;           // kBool, kNumber
  std::string text;                  // kString
  std::shared_ptr<const List> list;  // kList
  std::shared_ptr<Dict> dict;        // kDict
  const Statement* macro = nullptr;  // kMacro
  bool is_namespace = false;         // kDict: `set` may change it
  bool holds_namespace = false;      // it or something in it; such values must not form circles
  int depth = 0;                     // of nested lists and dicts

  static TemplateValue none();
  static TemplateValue boolean(bool value);
  static TemplateValue integer(std::int64_t value);
  static TemplateValue string(std::string value);
  /// Lists and dicts nested too deeply are an error.
  static Result<TemplateValue> of(List items);
  static Result<TemplateValue> of(Dict items);

  bool is(Type wanted) const { return type == wanted; }
  /// Truth as in Python.
  bool truth() const;
  bool operator==(const TemplateValue& other) const;
  /// What {{ }} prints.
  Result<std::string> print() const;
};

/// Filters, tests and methods without access to the template's names. Unknown ones are refused.
Result<TemplateValue> apply_filter(std::string_view name, const TemplateValue& value,
                                   const std::vector<TemplateValue>& args);
Result<bool> apply_test(std::string_view name, const TemplateValue& value,
                        const std::vector<TemplateValue>& args);
Result<TemplateValue> call_method(std::string_view name, const TemplateValue& object,
                                  const std::vector<TemplateValue>& args);
Result<TemplateValue> binary_operation(std::string_view op, const TemplateValue& left,
                                       const TemplateValue& right);

/// `text` without white space, as Python's str.strip() sees it, at both ends.
std::string python_strip(std::string_view text);
/// `text` without characters of `characters` (ASCII) at the ends asked for.
std::string python_strip(std::string_view text, std::string_view characters, bool left, bool right);

/// No string that a template makes may be longer.
inline constexpr std::size_t kMaxTemplateBytes = 1 << 20;

}  // namespace kv8::text
