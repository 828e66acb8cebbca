#include "apps/command.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <new>

namespace kv8::apps {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

int report(const Error& error) {
  fmt::print(stderr, "kv8: error: {}\n", error.message);
  return error.code == ErrorCode::kUsage ? kExitUsage : kExitFailure;
}

/// The program without its folder, and its arguments.
std::string command_line(int argc, char** argv) {
  std::string line = std::filesystem::path(argv[0]).filename().string();
  for (int i = 1; i < argc; ++i) line += fmt::format(" {}", argv[i]);
  return line;
}

}  // namespace

void refuse_option(CLI::App& app, const std::string& names, const std::string& reason) {
  app.add_option_function<std::string>(
         names, [names, reason](const std::string&) { throw CLI::ValidationError(names, reason); })
      ->expected(0, 1)
      ->trigger_on_parse()
      ->group("");
}

CLI::Validator one_of(std::vector<std::string> supported, std::vector<std::string> later) {
  const std::string list = fmt::format("{}", fmt::join(supported, "|"));
  return CLI::Validator(
      [supported = std::move(supported), later = std::move(later), list](std::string& word) {
        const auto among = [&word](const std::vector<std::string>& words) {
          return std::find(words.begin(), words.end(), word) != words.end();
        };
        if (among(supported)) return std::string();
        if (among(later)) {
          return fmt::format("'{}' is not supported by this version (supported: {})", word, list);
        }
        return fmt::format("'{}' is unknown (supported: {})", word, list);
      },
      list);
}

int run_program(CLI::App& app, int argc, char** argv, const Action& action) {
  app.set_version_flag("--version", KV8_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& failure) {
    return app.exit(failure) == 0 ? 0 : kExitUsage;
  }
  install_interrupt_handler();
  Terminal terminal(command_line(argc, argv));
  try {
    const Status status = action(terminal);
    terminal.end();
    return status.ok() ? 0 : report(status.error());
  } catch (const std::bad_alloc&) {
    return report(capacity_error("out of memory"));
  } catch (const std::exception& failure) {
    fmt::print(stderr, "kv8: internal error, please report it: {}\n", failure.what());
    return kExitFailure;
  }
}

}  // namespace kv8::apps
