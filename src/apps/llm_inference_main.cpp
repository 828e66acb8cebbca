#include "apps/command.h"

int main(int argc, char** argv) {
  CLI::App app("Answers the requests of a file with a built engine", "llm_inference");
  kv8::apps::Action action;
  kv8::apps::define_inference(app, action);
  return kv8::apps::run_program(app, argc, argv, action);
}
