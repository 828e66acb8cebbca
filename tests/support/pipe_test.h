// A test that writes what the code under test reads.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

namespace kv8::test {

class PipeTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::pipe(pipe_), 0); }
  void TearDown() override {
    end();
    ::close(pipe_[0]);
  }
  void write(const std::string& text) {
    ASSERT_EQ(::write(pipe_[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  /// Closes the writing end.
  void end() {
    if (pipe_[1] >= 0) ::close(pipe_[1]);
    pipe_[1] = -1;
  }

  int pipe_[2] = {-1, -1};  ///< reading end, writing end
};

}  // namespace kv8::test
