// kv8 export CHECKPOINT DIR
#include "apps/command.h"
#include "models/exporter.h"

namespace kv8::apps {

void add_export(CLI::App& parent, Action& action) {
  CLI::App* app = parent.add_subcommand(
      "export", "Export a checkpoint as ONNX into DIR/llm; its metadata decides on FP8 KV");
  struct Flags {
    std::string checkpoint, dir;
    models::ExportOptions options;
  };
  const auto flags = std::make_shared<Flags>();
  app->add_option("checkpoint", flags->checkpoint, "Checkpoint folder")->required();
  app->add_option("dir", flags->dir, "Folder to write llm/ into")->required();
  app->add_flag("--portable", flags->options.portable,
                "The variant that stock ONNX Runtime runs on a CPU (float caches, input_ids)");
  app->add_flag("--last_token_only", flags->options.last_token_only,
                "Logits of the last token of each sequence only");
  refuse_option(*app, "--eagle-base",
                "EAGLE speculative decoding is not supported by this version");
  app->callback([flags, &action] {
    action = [flags](Terminal& terminal) {
      return models::export_model(flags->checkpoint, flags->dir, flags->options,
                                  terminal.reporter());
    };
  });
}

}  // namespace kv8::apps
