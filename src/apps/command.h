// How the programs are put together: every command registers its options and leaves an action.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "apps/terminal.h"
#include "base/result.h"

namespace kv8::apps {

/// What a parsed command line asks for.
using Action = std::function<Status(Terminal&)>;

/// Adds an option that other systems have and this version does not: giving it is a usage error
/// that says why.
void refuse_option(CLI::App& app, const std::string& names, const std::string& reason);

/// A check for options whose values are words: `word` must be in `supported`, or the error lists
/// them; words in `later` are named as not supported by this version.
CLI::Validator one_of(std::vector<std::string> supported, std::vector<std::string> later = {});

/// Parses, runs the action and returns the exit status: 0, 1 for a failure, 2 for usage.
int run_program(CLI::App& app, int argc, char** argv, const Action& action);

// One function per command; each adds itself to `app` (or is `app`) and sets `action` when chosen.
void add_import(CLI::App& parent, Action& action);
void add_quantize(CLI::App& parent, Action& action);
void add_export(CLI::App& parent, Action& action);
void add_eval(CLI::App& parent, Action& action);
void add_bench(CLI::App& parent, Action& action);
/// fmha, decode and write: what `kv8 bench` and the program kv8_bench share.
void add_kernel_benches(CLI::App& parent, Action& action);
void define_bench_fmha(CLI::App& app, Action& action);
void add_debug(CLI::App& parent, Action& action);
void define_debug_compare(CLI::App& app, Action& action);
/// `kv8 build` and the program llm_build.
void define_build(CLI::App& app, Action& action);
/// The program llm_inference; `kv8 run` adds --prompt to the same options.
void define_inference(CLI::App& app, Action& action);
void define_run(CLI::App& app, Action& action);

}  // namespace kv8::apps
