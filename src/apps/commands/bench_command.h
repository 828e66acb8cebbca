// What a file of results says was run.
#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace kv8::apps {

/// "kv8 bench NAME", behind the kernel family that the environment forces.
inline std::string bench_command(std::string_view name) {
  const char* forced = std::getenv("KV8_FORCE_KERNEL");
  const std::string family =
      forced != nullptr && *forced != '\0' ? fmt::format("KV8_FORCE_KERNEL={} ", forced) : "";
  return fmt::format("{}kv8 bench {}", family, name);
}

}  // namespace kv8::apps
