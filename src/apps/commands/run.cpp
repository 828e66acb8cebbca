// llm_inference, and kv8 run, which adds --prompt.
#include <unistd.h>

#include <cstdio>
#include <random>

#include "apps/command.h"
#include "runtime/generate.h"
#include "runtime/serve.h"

namespace kv8::apps {
namespace {

struct RunFlags {
  std::string engine_dir, input_file, output_file, profile_file;
  std::string prompt, system_prompt;
  std::int32_t batch_size = 0, max_generate_length = 0, num_logprobs = -1;
  int warmup = 0, threads = 0;
  bool dump_profile = false, dump_output = false, think = false, from_stdin = false;
  runtime::SamplingParams sampling;
};

template <typename Value>
std::optional<Value> given(const CLI::App& app, const std::string& option, Value value) {
  return app.count(option) > 0 ? std::optional<Value>(value) : std::nullopt;
}

void add_common(CLI::App& app, RunFlags& flags) {
  app.add_option("--engineDir", flags.engine_dir, "Engine folder")->required();
  app.add_option("--profileOutputFile", flags.profile_file, "Write times and memory as JSON");
  app.add_flag("--dumpProfile", flags.dump_profile, "Print times and memory");
  app.add_option("--maxGenerateLength", flags.max_generate_length,
                 "Tokens to generate at most (default: the request's, or 256)")
      ->check(CLI::Range(1, 1 << 30));
  app.add_option("--threads", flags.threads, "CPU threads (0: all)")->check(CLI::Range(0, 1024));
  for (const char* option :
       {"--specDecode,--eagle", "--specDraftTopK", "--specDraftStep", "--specVerifySize"}) {
    refuse_option(app, option, "EAGLE speculative decoding is not supported by this version");
  }
}

void add_file_options(CLI::App& app, RunFlags& flags) {
  app.add_option("--inputFile", flags.input_file, "Request file (JSON)");
  app.add_option("--outputFile", flags.output_file, "Response file to write");
  app.add_option("--batchSize", flags.batch_size, "Requests at once (default: the file's)")
      ->check(CLI::Range(1, 65536));
  app.add_option("--numLogprobs", flags.num_logprobs, "Log-probabilities per token")
      ->check(CLI::Range(0, 50));
  app.add_option("--warmup", flags.warmup, "Runs before the one that is timed")
      ->check(CLI::Range(0, 1000));
  app.add_flag("--dumpOutput", flags.dump_output, "Print the answers too");
  app.add_flag("--stdin", flags.from_stdin,
               "Read requests from standard input, one JSON object a line, and write each response "
               "as a line to standard output when it is finished")
      ->excludes("--inputFile")
      ->excludes("--outputFile")
      ->excludes("--warmup")
      ->excludes("--dumpOutput");
}

/// What stands in for --stdin.
bool names_files(const RunFlags& flags) {
  return !flags.input_file.empty() && !flags.output_file.empty();
}

Result<std::unique_ptr<runtime::Runner>> open_runner(const RunFlags& flags,
                                                     const Reporter& reporter,
                                                     runtime::StreamSink stream = {}) {
  runtime::RunnerOptions options;
  options.num_threads = flags.threads;
  options.stream = std::move(stream);
  auto runner = KV8_TRY(runtime::Runner::open(flags.engine_dir, options));
  reporter.info(runner->backend().summary());
  reporter.info(runtime::kv_capacity_text(runner->profile()));
  return runner;
}

Status finish_profile(const RunFlags& flags, const runtime::Runner& runner) {
  // Standard output has nothing but responses with --stdin.
  std::FILE* const table = flags.from_stdin ? stderr : stdout;
  if (flags.dump_profile) fmt::print(table, "{}", runtime::profile_table(runner.profile()));
  if (!flags.profile_file.empty()) {
    KV8_TRY(runtime::write_profile(runner.profile(), flags.profile_file));
  }
  return {};
}

void print_answer(const runtime::Request& request, const runtime::Response& response) {
  const std::string question = request.messages.empty() ? "" : request.messages.back().content;
  fmt::print("[{}] {}\n", response.request_idx, question);
  if (response.error) {
    fmt::print("    error: {}\n\n", response.error->message);
  } else {
    fmt::print("    {}  ({})\n\n", response.output_text,
               runtime::finish_reason_name(response.finish_reason));
  }
}

Status answer_file(const RunFlags& flags, const runtime::RequestOverrides& overrides,
                   Terminal& terminal) {
  const Reporter reporter = terminal.reporter();
  const auto requests = KV8_TRY(runtime::read_request_file(flags.input_file, overrides, reporter));
  auto runner = KV8_TRY(open_runner(flags, reporter));
  for (int i = 0; i < flags.warmup && !interrupted(); ++i) (void)runner->run(requests, {});
  runner->reset_profile();
  const auto responses = runner->run(requests, reporter);
  KV8_TRY(runtime::write_response_file(requests, responses, flags.output_file));
  std::size_t failed = 0;
  for (const auto& response : responses) {
    if (flags.dump_output) {
      print_answer(requests.requests[static_cast<std::size_t>(response.request_idx)], response);
    }
    failed += response.error.has_value();
  }
  KV8_TRY(finish_profile(flags, *runner));
  if (interrupted())
    return Error{ErrorCode::kCancelled,
                 "interrupted; the answers so far are in " + flags.output_file};
  if (failed > 0) {
    return bad_input("{} of {} requests failed; their errors are in {}", failed, responses.size(),
                     flags.output_file);
  }
  return {};
}

Status answer_prompt(const RunFlags& flags, Terminal& terminal) {
  runtime::RequestFile file;
  file.path = "--prompt";
  runtime::Request request;
  if (!flags.system_prompt.empty()) request.messages.push_back({"system", flags.system_prompt});
  request.messages.push_back({"user", flags.prompt});
  request.sampling = flags.sampling;
  request.enable_thinking = flags.think;
  if (flags.max_generate_length > 0)
    request.sampling.max_generate_length = flags.max_generate_length;
  file.requests.push_back(std::move(request));
  auto runner =
      KV8_TRY(open_runner(flags, terminal.reporter(), [](std::int32_t, std::string_view text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      }));
  const auto responses = runner->run(file, terminal.reporter());
  fmt::print("\n");
  KV8_TRY(finish_profile(flags, *runner));
  if (responses.front().error) return *responses.front().error;
  return {};
}

Status write_line(std::string_view line) {
  std::fwrite(line.data(), 1, line.size(), stdout);
  std::fputc('\n', stdout);
  if (std::fflush(stdout) != 0) return io_error("cannot write responses to standard output");
  return {};
}

Status answer_stdin(const RunFlags& flags, const runtime::RequestOverrides& overrides,
                    Terminal& terminal) {
  const Reporter reporter = terminal.reporter();
  auto runner = KV8_TRY(open_runner(flags, reporter));
  LineReader lines(STDIN_FILENO, runtime::kMaxRequestLine);
  const auto served = KV8_TRY(runtime::serve(*runner, lines, overrides, write_line, reporter));
  KV8_TRY(finish_profile(flags, *runner));
  if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
  if (served.num_failed > 0) {
    return bad_input("{} of {} requests failed", served.num_failed, served.num_requests);
  }
  return {};
}

Status run_requests(const CLI::App& app, const RunFlags& flags, Terminal& terminal) {
  runtime::RequestOverrides overrides;
  overrides.batch_size = given(app, "--batchSize", flags.batch_size);
  overrides.max_generate_length = given(app, "--maxGenerateLength", flags.max_generate_length);
  overrides.num_logprobs = given(app, "--numLogprobs", flags.num_logprobs);
  return flags.from_stdin ? answer_stdin(flags, overrides, terminal)
                          : answer_file(flags, overrides, terminal);
}

}  // namespace

void define_inference(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<RunFlags>();
  add_common(app, *flags);
  add_file_options(app, *flags);
  app.callback([flags, &app, &action] {
    if (!flags->from_stdin && !names_files(*flags)) {
      throw CLI::RequiredError("--stdin, or --inputFile and --outputFile,");
    }
    action = [flags, &app](Terminal& terminal) { return run_requests(app, *flags, terminal); };
  });
}

void define_run(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<RunFlags>();
  flags->sampling.seed = std::random_device{}();
  add_common(app, *flags);
  add_file_options(app, *flags);
  CLI::Option* prompt = app.add_option("--prompt", flags->prompt, "Answer this, streaming");
  const auto with_prompt = [&](CLI::Option* option) { option->needs(prompt); };
  with_prompt(app.add_option("--system", flags->system_prompt, "System message for --prompt"));
  with_prompt(app.add_option("--temperature", flags->sampling.temperature, "0 is greedy")
                  ->check(CLI::Range(0.0, 100.0))
                  ->capture_default_str());
  with_prompt(app.add_option("--topK", flags->sampling.top_k, "1 is greedy")
                  ->check(CLI::Range(1, 1 << 24))
                  ->capture_default_str());
  with_prompt(app.add_option("--topP", flags->sampling.top_p, "Nucleus")
                  ->check(CLI::Range(0.0, 1.0))
                  ->capture_default_str());
  with_prompt(app.add_option("--seed", flags->sampling.seed, "Default: a new one each time"));
  with_prompt(app.add_flag("--think", flags->think, "Let a model that can think do so"));
  prompt->excludes("--inputFile")->excludes("--outputFile")->excludes("--batchSize");
  prompt->excludes("--numLogprobs")->excludes("--warmup")->excludes("--dumpOutput");
  prompt->excludes("--stdin");
  app.callback([flags, prompt, &app, &action] {
    if (prompt->count() == 0 && !flags->from_stdin && !names_files(*flags)) {
      throw CLI::RequiredError("--prompt, --stdin, or --inputFile and --outputFile,");
    }
    const bool single = prompt->count() > 0;
    action = [flags, single, &app](Terminal& terminal) {
      return single ? answer_prompt(*flags, terminal) : run_requests(app, *flags, terminal);
    };
  });
}

}  // namespace kv8::apps
