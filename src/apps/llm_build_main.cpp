#include "apps/command.h"

int main(int argc, char** argv) {
  CLI::App app("Builds an engine from an exported model or a checkpoint", "llm_build");
  kv8::apps::Action action;
  kv8::apps::define_build(app, action);
  return kv8::apps::run_program(app, argc, argv, action);
}
