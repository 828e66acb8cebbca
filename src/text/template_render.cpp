#include "text/template_render.h"

#include <algorithm>

#include "text/template_value.h"
#include "text/unicode.h"

namespace kv8::text {
namespace {

using Value = TemplateValue;
using Type = Value::Type;
using Kind = Expression::Kind;

constexpr std::size_t kMaxSteps = 500'000;
constexpr int kMaxCalls = 40;
constexpr int kMaxDepth = 200;  // of expressions and blocks in each other: bounds the stack
constexpr std::int64_t kMaxRange = 10'000;

enum class Flow { kNext, kBreak, kContinue };

class Renderer {
 public:
  explicit Renderer(Value::Dict globals) { scopes_.push_back(std::move(globals)); }

  Result<Flow> run(const Block& block, std::string& out) {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    for (const Statement& statement : block) {
      KV8_TRY(step());
      const Flow flow = KV8_TRY(run(statement, out));
      if (out.size() > kMaxTemplateBytes) return bad_input("the output is too long");
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

 private:
  Status step(std::size_t cost = 1) {
    steps_ += cost;
    if (steps_ > kMaxSteps) return bad_input("the template does not come to an end");
    return {};
  }

  const Value* find(std::string_view name) const {
    for (std::size_t i = scopes_.size(); i-- > base_;) {
      if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) {
        return &found->second;
      }
    }
    const auto global = scopes_[0].find(name);
    return global == scopes_[0].end() ? nullptr : &global->second;
  }

  Result<Flow> run(const Statement& statement, std::string& out) {
    switch (statement.kind) {
      case Statement::Kind::kText:
        out += statement.text;
        return Flow::kNext;
      case Statement::Kind::kOutput:
        out += KV8_TRY(KV8_TRY(evaluate(*statement.expression)).print());
        return Flow::kNext;
      case Statement::Kind::kIf:
        for (const auto& [condition, block] : statement.branches) {
          if (condition == nullptr || KV8_TRY(evaluate(*condition)).truth()) {
            return run(block, out);
          }
        }
        return Flow::kNext;
      case Statement::Kind::kFor:
        KV8_TRY(run_for(statement, out));
        return Flow::kNext;
      case Statement::Kind::kSet:
        KV8_TRY(run_set(statement));
        return Flow::kNext;
      case Statement::Kind::kSetBlock: {
        std::string text;
        KV8_TRY(run(statement.body, text));
        scopes_.back()[statement.names[0]] = Value::string(std::move(text));
        return Flow::kNext;
      }
      case Statement::Kind::kMacro: {
        Value macro;
        macro.type = Type::kMacro;
        macro.macro = &statement;
        scopes_.back()[statement.text] = macro;
        return Flow::kNext;
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  Status run_set(const Statement& statement) {
    Value value = KV8_TRY(evaluate(*statement.expression));
    if (!statement.text.empty()) {
      const Value* target = find(statement.names[0]);
      if (target == nullptr || !target->is_namespace) {
        return bad_input("`set {}.{}` needs a namespace", statement.names[0], statement.text);
      }
      if (value.holds_namespace) return unsupported("a namespace inside a namespace");
      (*target->dict)[statement.text] = std::move(value);
      return {};
    }
    return assign(statement.names, std::move(value));
  }

  Status assign(const std::vector<std::string>& names, Value value) {
    if (names.size() == 1) {
      scopes_.back()[names[0]] = std::move(value);
      return {};
    }
    if (!value.is(Type::kList) || value.list->size() != names.size()) {
      return bad_input("{} names for a value that is not a list of as many", names.size());
    }
    for (std::size_t i = 0; i < names.size(); ++i) scopes_.back()[names[i]] = (*value.list)[i];
    return {};
  }

  Status run_for(const Statement& loop, std::string& out) {
    const Value source = KV8_TRY(evaluate(*loop.expression));
    Value::List items;
    if (source.is(Type::kList)) {
      items = *source.list;
    } else if (source.is(Type::kDict)) {
      for (const auto& [key, value] : *source.dict) items.push_back(Value::string(key));
    } else if (!source.is(Type::kUndefined)) {
      return unsupported("`for` over something that is no list");
    }
    if (loop.condition != nullptr) KV8_TRY(filter_items(loop, items));
    if (items.empty()) {
      KV8_TRY(run(loop.otherwise, out));
      return {};
    }
    for (std::size_t i = 0; i < items.size(); ++i) {
      KV8_TRY(step());
      scopes_.emplace_back();
      const Result<Flow> flow = run_iteration(loop, items, i, out);
      scopes_.pop_back();
      if (KV8_TRY(flow) == Flow::kBreak) break;
    }
    return {};
  }

  Status filter_items(const Statement& loop, Value::List& items) {
    Value::List kept;
    for (Value& item : items) {
      scopes_.emplace_back();
      const auto test = [&]() -> Result<bool> {
        KV8_TRY(assign(loop.names, item));
        return KV8_TRY(evaluate(*loop.condition)).truth();
      };
      const Result<bool> wanted = test();
      scopes_.pop_back();
      if (KV8_TRY(wanted)) kept.push_back(std::move(item));
    }
    items = std::move(kept);
    return {};
  }

  Result<Flow> run_iteration(const Statement& loop, const Value::List& items, std::size_t i,
                             std::string& out) {
    const auto at = static_cast<std::int64_t>(i), count = static_cast<std::int64_t>(items.size());
    Value::Dict state{
        {"index", Value::integer(at + 1)},        {"index0", Value::integer(at)},
        {"revindex", Value::integer(count - at)}, {"revindex0", Value::integer(count - at - 1)},
        {"first", Value::boolean(i == 0)},        {"last", Value::boolean(at + 1 == count)},
        {"length", Value::integer(count)}};
    if (i > 0) state["previtem"] = items[i - 1];
    if (at + 1 < count) state["nextitem"] = items[i + 1];
    scopes_.back()["loop"] = KV8_TRY(Value::of(std::move(state)));
    KV8_TRY(assign(loop.names, items[i]));
    return run(loop.body, out);
  }

  Result<Value> evaluate(const Expression& e) {
    const Nesting nesting(depth_);
    if (depth_ > kMaxDepth) return bad_input("nested too deeply");
    Value value = KV8_TRY(evaluate_node(e));
    const std::size_t items = value.list == nullptr ? 0 : value.list->size();
    KV8_TRY(step(1 + value.text.size() / 256 + items / 8));
    return value;
  }

  Result<Value> evaluate_node(const Expression& e) {
    switch (e.kind) {
      case Kind::kString:
        return Value::string(e.text);
      case Kind::kNumber:
        return Value::integer(e.number);
      case Kind::kTrue:
      case Kind::kFalse:
        return Value::boolean(e.kind == Kind::kTrue);
      case Kind::kNone:
        return Value::none();
      case Kind::kName: {
        const Value* value = find(e.text);
        return value == nullptr ? Value() : *value;
      }
      case Kind::kAttribute: {
        const Value object = KV8_TRY(evaluate(*e.args[0]));
        return item_of(object, Value::string(e.text));
      }
      case Kind::kItem: {
        const Value object = KV8_TRY(evaluate(*e.args[0]));
        return item_of(object, KV8_TRY(evaluate(*e.args[1])));
      }
      case Kind::kSlice:
        return slice(e);
      case Kind::kCall:
        return call(e);
      case Kind::kFilter: {
        if (!e.named.empty()) return unsupported("named arguments of the filter `{}`", e.text);
        const Value value = KV8_TRY(evaluate(*e.args[0]));
        return apply_filter(e.text, value, KV8_TRY(arguments(e)));
      }
      case Kind::kTest: {
        const Value value = KV8_TRY(evaluate(*e.args[0]));
        return Value::boolean(KV8_TRY(apply_test(e.text, value, KV8_TRY(arguments(e)))));
      }
      case Kind::kNot:
        return Value::boolean(!KV8_TRY(evaluate(*e.args[0])).truth());
      case Kind::kNegate: {
        const Value operand = KV8_TRY(evaluate(*e.args[0]));
        return binary_operation("-", Value::integer(0), operand);
      }
      case Kind::kBinary: {
        const Value left = KV8_TRY(evaluate(*e.args[0]));
        return binary_operation(e.text, left, KV8_TRY(evaluate(*e.args[1])));
      }
      case Kind::kAnd:
      case Kind::kOr: {
        Value left = KV8_TRY(evaluate(*e.args[0]));
        if (left.truth() == (e.kind == Kind::kOr)) return left;
        return evaluate(*e.args[1]);
      }
      case Kind::kConditional:
        if (KV8_TRY(evaluate(*e.args[0])).truth()) return evaluate(*e.args[1]);
        if (e.args[2] == nullptr) return Value();
        return evaluate(*e.args[2]);
      case Kind::kList: {
        Value::List items;
        for (const ExpressionPtr& item : e.args) items.push_back(KV8_TRY(evaluate(*item)));
        return Value::of(std::move(items));
      }
      case Kind::kDict:
        return dict(e);
    }
    return Value();
  }

  Result<Value> dict(const Expression& e) {
    Value::Dict items;
    for (std::size_t i = 0; i < e.args.size(); i += 2) {
      const Value key = KV8_TRY(evaluate(*e.args[i]));
      if (!key.is(Type::kString)) return unsupported("a mapping's key that is no string");
      items[key.text] = KV8_TRY(evaluate(*e.args[i + 1]));
    }
    return Value::of(std::move(items));
  }

  static Result<Value> item_of(const Value& object, const Value& key) {
    if (object.is(Type::kUndefined)) return bad_input("a part of something undefined");
    if (object.is(Type::kDict) && key.is(Type::kString)) {
      const auto found = object.dict->find(key.text);
      return found == object.dict->end() ? Value() : found->second;
    }
    if (object.is(Type::kList) && key.is(Type::kNumber)) {
      const auto size = static_cast<std::int64_t>(object.list->size());
      const std::int64_t index = key.number < 0 ? key.number + size : key.number;
      if (index < 0 || index >= size) return Value();
      return (*object.list)[static_cast<std::size_t>(index)];
    }
    return Value();
  }

  Result<Value> slice(const Expression& e) {
    const Value object = KV8_TRY(evaluate(*e.args[0]));
    if (!object.is(Type::kList)) return unsupported("a slice of something that is no list");
    const auto size = static_cast<std::int64_t>(object.list->size());
    const auto bound = [&](const ExpressionPtr& part,
                           std::int64_t fallback) -> Result<std::int64_t> {
      if (part == nullptr) return fallback;
      const Value value = KV8_TRY(evaluate(*part));
      if (value.is(Type::kNone)) return fallback;
      if (!value.is(Type::kNumber)) return bad_input("a slice needs numbers");
      return value.number;
    };
    const std::int64_t stride = KV8_TRY(bound(e.args[3], 1));
    if (stride != 1 && stride != -1) return unsupported("a slice in steps of {}", stride);
    const bool forward = stride == 1;
    if (!forward && (e.args[1] != nullptr || e.args[2] != nullptr)) {
      return unsupported("a backward slice with bounds");
    }
    const auto clamp = [&](std::int64_t index) {
      return std::clamp<std::int64_t>(index < 0 ? index + size : index, 0, size);
    };
    const std::int64_t begin = clamp(KV8_TRY(bound(e.args[1], 0)));
    const std::int64_t end = std::max(begin, clamp(KV8_TRY(bound(e.args[2], size))));
    Value::List items(object.list->begin() + begin, object.list->begin() + end);
    if (!forward) std::reverse(items.begin(), items.end());
    return Value::of(std::move(items));
  }

  Result<std::vector<Value>> arguments(const Expression& e) {
    std::vector<Value> values;
    for (std::size_t i = 1; i < e.args.size(); ++i) values.push_back(KV8_TRY(evaluate(*e.args[i])));
    return values;
  }

  Result<Value> call(const Expression& e) {
    const Expression& callee = *e.args[0];
    if (callee.kind == Kind::kAttribute) {
      if (!e.named.empty()) return unsupported("named arguments of the method `{}`", callee.text);
      const Value object = KV8_TRY(evaluate(*callee.args[0]));
      return call_method(callee.text, object, KV8_TRY(arguments(e)));
    }
    if (callee.kind != Kind::kName) return unsupported("a call of something that has no name");
    const Value* known = find(callee.text);
    if (known != nullptr && known->is(Type::kMacro)) return call_macro(*known->macro, e);
    const std::vector<Value> args = KV8_TRY(arguments(e));
    if (callee.text == "raise_exception") {
      return bad_input("the template says: {}", args.empty() ? "" : KV8_TRY(args[0].print()));
    }
    if (callee.text == "namespace" && args.empty()) return new_namespace(e);
    if (callee.text == "range" && e.named.empty()) return range(args);
    return unsupported("the function `{}` is not supported", callee.text);
  }

  Result<Value> new_namespace(const Expression& e) {
    Value::Dict items;
    for (const auto& [name, value] : e.named) items[name] = KV8_TRY(evaluate(*value));
    Value result = KV8_TRY(Value::of(std::move(items)));
    if (result.holds_namespace) return unsupported("a namespace inside a namespace");
    result.is_namespace = result.holds_namespace = true;
    return result;
  }

  static Result<Value> range(const std::vector<Value>& args) {
    const bool numbers =
        std::all_of(args.begin(), args.end(), [](const Value& v) { return v.is(Type::kNumber); });
    if (!numbers || args.empty() || args.size() > 2) return unsupported("this form of `range`");
    const std::int64_t begin = args.size() == 2 ? args[0].number : 0, end = args.back().number;
    std::int64_t count = 0;
    if (__builtin_sub_overflow(end, begin, &count) || count > kMaxRange) {
      return bad_input("a range that is too long");
    }
    Value::List items;
    for (std::int64_t i = begin; i < end; ++i) items.push_back(Value::integer(i));
    return Value::of(std::move(items));
  }

  Result<Value> call_macro(const Statement& macro, const Expression& e) {
    const std::vector<Value> args = KV8_TRY(arguments(e));
    if (args.size() > macro.names.size() || calls_ >= kMaxCalls) {
      return bad_input("the macro `{}` cannot be called so", macro.text);
    }
    Value::Dict scope;
    for (std::size_t i = 0; i < macro.names.size(); ++i) {
      if (i < args.size()) {
        scope[macro.names[i]] = args[i];
      } else if (macro.defaults[i] != nullptr) {
        scope[macro.names[i]] = KV8_TRY(evaluate(*macro.defaults[i]));
      }
    }
    for (const auto& [name, value] : e.named) scope[name] = KV8_TRY(evaluate(*value));
    const std::size_t outer_base = base_;
    base_ = scopes_.size();
    scopes_.push_back(std::move(scope));
    ++calls_;
    std::string text;
    const Result<Flow> flow = run(macro.body, text);
    --calls_;
    scopes_.pop_back();
    base_ = outer_base;
    KV8_TRY(flow);
    return Value::string(std::move(text));
  }

  std::vector<Value::Dict> scopes_;  // [0]: globals
  std::size_t base_ = 0;  // scopes below, but for the globals, belong to a macro's caller
  std::size_t steps_ = 0;
  int calls_ = 0, depth_ = 0;
};

}  // namespace

Result<std::string> render_template(const Block& program, const std::vector<ChatMessage>& messages,
                                    const TemplateContext& context) {
  Value::List list;
  for (const ChatMessage& message : messages) {
    list.push_back(KV8_TRY(Value::of(Value::Dict{{"role", Value::string(message.role)},
                                                 {"content", Value::string(message.content)}})));
  }
  Value::Dict globals{{"messages", KV8_TRY(Value::of(std::move(list)))},
                      {"tools", Value::none()},
                      {"documents", Value::none()},
                      {"add_generation_prompt", Value::boolean(context.add_generation_prompt)},
                      {"enable_thinking", Value::boolean(context.enable_thinking)}};
  if (context.bos_token) globals["bos_token"] = Value::string(*context.bos_token);
  if (context.eos_token) globals["eos_token"] = Value::string(*context.eos_token);
  std::string out;
  KV8_TRY(Renderer(std::move(globals)).run(program, out));
  return out;
}

}  // namespace kv8::text
