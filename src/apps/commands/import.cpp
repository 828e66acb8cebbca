// kv8 import gguf FILE DIR
#include "apps/command.h"
#include "io/gguf.h"

namespace kv8::apps {

void add_import(CLI::App& parent, Action& action) {
  CLI::App* import =
      parent.add_subcommand("import", "Turn another file format into a Hugging Face folder");
  import->require_subcommand(1);
  CLI::App* gguf =
      import->add_subcommand("gguf", "Import a GGUF file (architectures llama, qwen2, qwen3)");
  struct Paths {
    std::string file, dir;
  };
  const auto paths = std::make_shared<Paths>();
  gguf->add_option("file", paths->file, "GGUF file")->required();
  gguf->add_option("dir", paths->dir, "Folder to write")->required();
  gguf->callback([paths, &action] {
    action = [paths](Terminal& terminal) {
      return io::import_gguf(paths->file, paths->dir, terminal.reporter());
    };
  });
}

}  // namespace kv8::apps
