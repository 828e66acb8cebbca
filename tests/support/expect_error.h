// What a user-facing error must look like.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace kv8::test {

/// Fails unless `result` is an error whose message holds every one of `parts`, in one line.
template <typename R>
void expect_error(const R& result, const std::vector<std::string>& parts) {
  ASSERT_FALSE(result.ok());
  for (const std::string& part : parts) {
    EXPECT_NE(result.error().message.find(part), std::string::npos)
        << "\"" << part << "\" is not in \"" << result.error().message << "\"";
  }
  EXPECT_EQ(result.error().message.find('\n'), std::string::npos) << result.error().message;
}

}  // namespace kv8::test
