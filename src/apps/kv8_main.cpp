#include "apps/command.h"

int main(int argc, char** argv) {
  CLI::App app(
      "kv8: FP8 key-value caches for large language models\n"
      "  import -> quantize -> export -> build -> run; eval and bench tell what it costs and buys",
      "kv8");
  app.require_subcommand(1);
  kv8::apps::Action action;
  kv8::apps::add_import(app, action);
  kv8::apps::add_quantize(app, action);
  kv8::apps::add_export(app, action);
  kv8::apps::define_build(*app.add_subcommand("build", "Build an engine for this machine"), action);
  kv8::apps::define_run(*app.add_subcommand("run", "Answer a prompt, or the requests of a file"),
                        action);
  kv8::apps::add_eval(app, action);
  kv8::apps::add_bench(app, action);
  kv8::apps::add_debug(app, action);
  return kv8::apps::run_program(app, argc, argv, action);
}
