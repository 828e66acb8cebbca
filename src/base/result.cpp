#include "base/result.h"

namespace kv8 {

std::string_view error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
      return "usage";
    case ErrorCode::kNotFound:
      return "not-found";
    case ErrorCode::kBadInput:
      return "bad-input";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kCapacity:
      return "capacity";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void contract_failed(const char* file, int line, const char* condition, const std::string& detail) {
  throw ContractError(fmt::format("{}:{}: {} does not hold: {}", file, line, condition, detail));
}

}  // namespace kv8
