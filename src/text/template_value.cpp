#include "text/template_value.h"

#include <algorithm>

#include "text/unicode.h"

namespace kv8::text {
namespace {

using Value = TemplateValue;
using Type = Value::Type;

constexpr int kMaxDepth = 50;

Error refuse(std::string_view what, std::string_view name) {
  return unsupported("the {} `{}` is not supported here", what, name);
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::vector<std::string> split_text(std::string_view text, std::string_view separator,
                                    std::int64_t limit) {
  std::vector<std::string> parts;
  for (std::size_t found; limit != 0 && (found = text.find(separator)) != std::string_view::npos;
       --limit) {
    parts.emplace_back(text.substr(0, found));
    text.remove_prefix(found + separator.size());
  }
  parts.emplace_back(text);
  return parts;
}

Result<Value> string_method(std::string_view name, const std::string& text,
                            const std::vector<Value>& args) {
  const bool one_string = args.size() == 1 && args[0].is(Type::kString);
  const bool left = name != "rstrip", right = name != "lstrip";
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    if (args.empty()) {
      std::string out = python_strip(text);
      if (!left) out = text.substr(0, text.find(out) + out.size());
      if (!right) out = text.substr(text.find(out));
      return Value::string(std::move(out));
    }
    if (one_string) return Value::string(python_strip(text, args[0].text, left, right));
  } else if (name == "startswith" && one_string) {
    return Value::boolean(text.rfind(args[0].text, 0) == 0);
  } else if (name == "endswith" && one_string) {
    const std::string& end = args[0].text;
    return Value::boolean(text.size() >= end.size() &&
                          text.compare(text.size() - end.size(), end.size(), end) == 0);
  } else if (name == "split" && !args.empty() && args[0].is(Type::kString) &&
             !args[0].text.empty() && args.size() <= 2) {
    Value::List parts;
    const std::int64_t limit = args.size() == 2 ? args[1].number : -1;
    for (std::string& part : split_text(text, args[0].text, limit)) {
      parts.push_back(Value::string(std::move(part)));
    }
    return Value::of(std::move(parts));
  }
  return refuse("method", name);
}

Result<Value> add(const Value& left, const Value& right) {
  if (left.is(Type::kString) && right.is(Type::kString)) {
    if (left.text.size() + right.text.size() > kMaxTemplateBytes) {
      return bad_input("a string that is too long");
    }
    return Value::string(left.text + right.text);
  }
  std::int64_t sum = 0;
  if (!left.is(Type::kNumber) || !right.is(Type::kNumber) ||
      __builtin_add_overflow(left.number, right.number, &sum)) {
    return bad_input("`+` needs two strings or two numbers");
  }
  return Value::integer(sum);
}

Result<bool> contains(const Value& item, const Value& container) {
  if (container.is(Type::kString) && item.is(Type::kString)) {
    return container.text.find(item.text) != std::string::npos;
  }
  if (container.is(Type::kList)) {
    return std::find(container.list->begin(), container.list->end(), item) != container.list->end();
  }
  if (container.is(Type::kDict)) {
    return item.is(Type::kString) && container.dict->count(item.text) > 0;
  }
  if (container.is(Type::kUndefined)) return false;
  return bad_input("`in` needs a string, a list or a mapping");
}

template <typename Items, typename Get>
Result<Value> nest(Value value, const Items& items, Get get) {
  for (const auto& item : items) {
    const Value& inner = get(item);
    value.depth = std::max(value.depth, inner.depth + 1);
    value.holds_namespace |= inner.holds_namespace;
  }
  if (value.depth > kMaxDepth) return bad_input("values nested too deeply");
  return value;
}

}  // namespace

std::string python_strip(std::string_view text) {
  while (!text.empty()) {
    const CodePoint c = decode_utf8(text, 0);
    if (!is_python_space(c.value)) break;
    text.remove_prefix(c.length);
  }
  while (!text.empty()) {
    const CodePoint c = last_utf8(text);
    if (!is_python_space(c.value)) break;
    text.remove_suffix(c.length);
  }
  return std::string(text);
}

std::string python_strip(std::string_view text, std::string_view characters, bool left,
                         bool right) {
  const auto in_set = [&](char c) { return characters.find(c) != std::string_view::npos; };
  while (left && !text.empty() && in_set(text.front())) text.remove_prefix(1);
  while (right && !text.empty() && in_set(text.back())) text.remove_suffix(1);
  return std::string(text);
}

Value Value::none() {
  Value value;
  value.type = Type::kNone;
  return value;
}
Value Value::boolean(bool v) {
  Value value;
  value.type = Type::kBool;
  value.number = v ? 1 : 0;
  return value;
}
Value Value::integer(std::int64_t v) {
  Value value;
  value.type = Type::kNumber;
  value.number = v;
  return value;
}
Value Value::string(std::string v) {
  Value value;
  value.type = Type::kString;
  value.text = std::move(v);
  return value;
}
Result<Value> Value::of(List items) {
  Value value;
  value.type = Type::kList;
  value.list = std::make_shared<const List>(std::move(items));
  return nest(value, *value.list, [](const Value& item) -> const Value& { return item; });
}
Result<Value> Value::of(Dict items) {
  Value value;
  value.type = Type::kDict;
  value.dict = std::make_shared<Dict>(std::move(items));
  return nest(value, *value.dict, [](const auto& item) -> const Value& { return item.second; });
}

bool Value::truth() const {
  switch (type) {
    case Type::kUndefined:
    case Type::kNone:
      return false;
    case Type::kBool:
    case Type::kNumber:
      return number != 0;
    case Type::kString:
      return !text.empty();
    case Type::kList:
      return !list->empty();
    case Type::kDict:
      return is_namespace || !dict->empty();
    case Type::kMacro:
      return true;
  }
  return false;
}

bool Value::operator==(const Value& other) const {
  const bool numbers =
      (is(Type::kBool) || is(Type::kNumber)) && (other.is(Type::kBool) || other.is(Type::kNumber));
  if (numbers) return number == other.number;
  if (type != other.type) return false;
  switch (type) {
    case Type::kString:
      return text == other.text;
    case Type::kList:
      return *list == *other.list;
    case Type::kDict:
      return is_namespace || other.is_namespace ? dict == other.dict : *dict == *other.dict;
    case Type::kMacro:
      return macro == other.macro;
    default:
      return true;
  }
}

Result<std::string> Value::print() const {
  switch (type) {
    case Type::kUndefined:
      return std::string();
    case Type::kNone:
      return std::string("None");
    case Type::kBool:
      return std::string(number != 0 ? "True" : "False");
    case Type::kNumber:
      return std::to_string(number);
    case Type::kString:
      return text;
    default:
      return unsupported("printing a list, a mapping or a macro is not supported");
  }
}

namespace {

/// The items whose attribute is true, or passes the test that is named: selectattr and rejectattr.
Result<Value> select(const Value& value, const std::vector<Value>& args, bool wanted) {
  if (args.empty() || args.size() > 3 || !args[0].is(Type::kString)) {
    return unsupported("this form of `selectattr` is not supported");
  }
  Value::List kept;
  for (const Value& item : *value.list) {
    Value attribute;
    if (item.is(Type::kDict)) {
      const auto found = item.dict->find(args[0].text);
      if (found != item.dict->end()) attribute = found->second;
    }
    bool passes = attribute.truth();
    if (args.size() > 1) {
      passes = KV8_TRY(apply_test(args[1].text, attribute, {args.begin() + 2, args.end()}));
    }
    if (passes == wanted) kept.push_back(item);
  }
  return Value::of(std::move(kept));
}

}  // namespace

Result<Value> apply_filter(std::string_view name, const Value& value,
                           const std::vector<Value>& args) {
  if (name == "default" || name == "d") {
    const bool also_false = args.size() > 1 && args[1].truth();
    const bool take = value.is(Type::kUndefined) || (also_false && !value.truth());
    if (take) return args.empty() ? Value::string("") : args[0];
    return value;
  }
  if (name == "length" || name == "count") {
    if (value.is(Type::kList)) {
      return Value::integer(static_cast<std::int64_t>(value.list->size()));
    }
    if (value.is(Type::kDict)) {
      return Value::integer(static_cast<std::int64_t>(value.dict->size()));
    }
    if (value.is(Type::kString)) {
      return Value::integer(std::count_if(value.text.begin(), value.text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
      }));
    }
  }
  if (name == "trim" && args.empty()) {
    return Value::string(python_strip(KV8_TRY(value.print())));
  }
  if (name == "string") return Value::string(KV8_TRY(value.print()));
  if (name == "safe") return value;
  if ((name == "selectattr" || name == "rejectattr") && value.is(Type::kList)) {
    return select(value, args, name == "selectattr");
  }
  if (name == "list" && value.is(Type::kList)) return value;
  if ((name == "first" || name == "last") && value.is(Type::kList)) {
    if (value.list->empty()) return Value();
    return name == "first" ? value.list->front() : value.list->back();
  }
  return refuse("filter", name);
}

Result<bool> apply_test(std::string_view name, const Value& value, const std::vector<Value>& args) {
  if (args.empty()) {
    if (name == "defined") return !value.is(Type::kUndefined);
    if (name == "undefined") return value.is(Type::kUndefined);
    if (name == "none") return value.is(Type::kNone);
    if (name == "string") return value.is(Type::kString);
    if (name == "mapping") return value.is(Type::kDict);
    if (name == "number") return value.is(Type::kNumber) || value.is(Type::kBool);
    if (name == "integer") return value.is(Type::kNumber);
    if (name == "boolean") return value.is(Type::kBool);
    if (name == "true") return value.is(Type::kBool) && value.number != 0;
    if (name == "false") return value.is(Type::kBool) && value.number == 0;
    if (name == "iterable" || name == "sequence") {
      return value.is(Type::kString) || value.is(Type::kList) || value.is(Type::kDict);
    }
  }
  if (args.size() == 1 && (name == "eq" || name == "equalto" || name == "=="))
    return value == args[0];
  return refuse("test", name);
}

Result<Value> call_method(std::string_view name, const Value& object,
                          const std::vector<Value>& args) {
  if (object.is(Type::kString)) return string_method(name, object.text, args);
  if (object.is(Type::kDict) && name == "get" && !args.empty() && args.size() <= 2 &&
      args[0].is(Type::kString)) {
    const auto found = object.dict->find(args[0].text);
    if (found != object.dict->end()) return found->second;
    return args.size() == 2 ? args[1] : Value::none();
  }
  return refuse("method", name);
}

Result<Value> binary_operation(std::string_view op, const Value& left, const Value& right) {
  if (op == "==") return Value::boolean(left == right);
  if (op == "!=") return Value::boolean(!(left == right));
  if (op == "in") return Value::boolean(KV8_TRY(contains(left, right)));
  if (op == "not in") return Value::boolean(!KV8_TRY(contains(left, right)));
  if (op == "+") return add(left, right);
  if (op == "~") {
    return add(Value::string(KV8_TRY(left.print())), Value::string(KV8_TRY(right.print())));
  }
  const bool numbers = (left.is(Type::kNumber) || left.is(Type::kBool)) &&
                       (right.is(Type::kNumber) || right.is(Type::kBool));
  if (!numbers) return bad_input("`{}` needs two numbers", op);
  const std::int64_t a = left.number, b = right.number;
  if (op == "<") return Value::boolean(a < b);
  if (op == ">") return Value::boolean(a > b);
  if (op == "<=") return Value::boolean(a <= b);
  if (op == ">=") return Value::boolean(a >= b);
  std::int64_t result = 0;
  if (op == "-" && !__builtin_sub_overflow(a, b, &result)) return Value::integer(result);
  if (op == "*" && !__builtin_mul_overflow(a, b, &result)) return Value::integer(result);
  // Other divisions round differently from C++'s; templates need them for parity alone.
  if (a >= 0 && b > 0 && op == "%") return Value::integer(a % b);
  if (a >= 0 && b > 0 && op == "//") return Value::integer(a / b);
  return bad_input("`{}` does not work for {} and {}", op, a, b);
}

}  // namespace kv8::text
