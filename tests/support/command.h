// Runs a program as a user would.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace kv8::test {

struct Outcome {
  int status = -1;  ///< exit status, or 128 + signal
  std::string out, err;
};

/// Runs `program` of the build's bin folder with `input` on its standard input. With
/// `interrupt_after` > 0 it gets SIGINT then.
Outcome run_program(const std::string& program, const std::vector<std::string>& arguments,
                    std::chrono::milliseconds interrupt_after = {}, const std::string& input = {});

}  // namespace kv8::test
