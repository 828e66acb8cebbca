// The kernel benchmarks of `kv8 bench` alone, for builds that have nothing else.
#include "apps/command.h"

int main(int argc, char** argv) {
  CLI::App app("kv8_bench: speed of the CUDA kernels, as `kv8 bench` measures it", "kv8_bench");
  app.require_subcommand(1);
  kv8::apps::Action action;
  kv8::apps::add_kernel_benches(app, action);
  return kv8::apps::run_program(app, argc, argv, action);
}
