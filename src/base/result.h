// Error values for everything that a user can cause, and checks for what only a bug can cause.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace kv8 {

/// What kind of failure an Error describes. The programs map kUsage to exit status 2, the rest
/// to 1.
enum class ErrorCode {
  kUsage,        ///< a command line or API argument that cannot be meant
  kNotFound,     ///< a file, tensor or field that is not there
  kBadInput,     ///< a file or request that breaks its format
  kUnsupported,  ///< well-formed, but kv8 does not do it
  kIo,           ///< the operating system refused a read or a write (disk full, permissions)
  kCapacity,     ///< does not fit: memory, KV pages, limits of the engine
  kCancelled,    ///< the user interrupted
};

/// Stable lower-case name of a code ("bad-input"), as written to a response's `error.code`.
std::string_view error_code_name(ErrorCode code);

/// A failure with a message that names the file, the field, what was found and what to do.
struct Error {
  ErrorCode code = ErrorCode::kBadInput;
  std::string message;

  template <typename... Args>
  static Error format(ErrorCode code, fmt::format_string<Args...> text, Args&&... args) {
    return Error{code, fmt::format(text, std::forward<Args>(args)...)};
  }
  /// The same error with "context: " before its message.
  Error within(std::string_view context) const {
    return Error{code, fmt::format("{}: {}", context, message)};
  }
};

template <typename... Args>
Error usage_error(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kUsage, text, std::forward<Args>(args)...);
}
template <typename... Args>
Error bad_input(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kBadInput, text, std::forward<Args>(args)...);
}
template <typename... Args>
Error not_found(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kNotFound, text, std::forward<Args>(args)...);
}
template <typename... Args>
Error unsupported(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kUnsupported, text, std::forward<Args>(args)...);
}
template <typename... Args>
Error io_error(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kIo, text, std::forward<Args>(args)...);
}
template <typename... Args>
Error capacity_error(fmt::format_string<Args...> text, Args&&... args) {
  return Error::format(ErrorCode::kCapacity, text, std::forward<Args>(args)...);
}

/// A broken promise between two pieces of kv8: a bug, never bad user input.
class ContractError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void contract_failed(const char* file, int line, const char* condition,
                                  const std::string& detail);

/// Either a value or an Error. `value()` of an error throws ContractError.
template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}      // NOLINT
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & {
    require_ok();
    return std::get<0>(state_);
  }
  const T& value() const& {
    require_ok();
    return std::get<0>(state_);
  }
  T&& value() && {
    require_ok();
    return std::get<0>(std::move(state_));
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  void require_ok() const {
    if (!ok()) contract_failed(__FILE__, __LINE__, "result.ok()", error().message);
  }
  std::variant<T, Error> state_;
};

/// Success or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  void value() const {
    if (!ok()) contract_failed(__FILE__, __LINE__, "status.ok()", error_->message);
  }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace kv8

/// `auto x = KV8_TRY(f());` takes the value, or returns the error from the enclosing function.
/// A statement expression (GCC, Clang and nvcc's host pass have it); works for Status too. Let it
/// stand alone or initialise something: GCC does not destroy temporaries that the rest of the same
/// expression already holds when the error returns.
#define KV8_TRY(expression)                                        \
  (__extension__({                                                 \
    auto kv8_result = (expression);                                \
    if (!kv8_result.ok()) return ::kv8::Error(kv8_result.error()); \
    std::move(kv8_result).value();                                 \
  }))

/// Throws ContractError with the formatted detail when `condition` is false.
#define KV8_CHECK(condition, ...)                                                         \
  do {                                                                                    \
    if (!(condition))                                                                     \
      ::kv8::contract_failed(__FILE__, __LINE__, #condition, ::fmt::format(__VA_ARGS__)); \
  } while (0)
