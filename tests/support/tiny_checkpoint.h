// A complete checkpoint folder around one of the tiny models of tests/data/models.
#pragma once

#include <filesystem>
#include <string>

namespace kv8::test {

/// Writes a byte-level tokenizer of 264 ids without merges (ids 0 to 7 are special, 1 =
/// <|im_start|>, 2 = <|im_end|>, 8 + b is byte b), a ChatML chat template and
/// generation_config.json into `dir`, which is made if need be.
void write_tiny_tokenizer(const std::filesystem::path& dir);

/// Copies tests/data/models/`model` to `dir` and adds write_tiny_tokenizer's files. Aborts the test
/// by an exception if files are missing.
void make_tiny_checkpoint(const std::string& model, const std::filesystem::path& dir);

}  // namespace kv8::test
