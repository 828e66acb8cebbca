// GGUF files (version 2 and 3), and their import as a Hugging Face folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/file.h"
#include "base/progress.h"
#include "tensor/tensor.h"

namespace kv8::io {

/// A metadata value. Whole numbers of any width are uint64 or int64, floats double; arrays of whole
/// numbers and of bools are int64.
using GgufValue =
    std::variant<std::uint64_t, std::int64_t, double, bool, std::string, std::vector<std::int64_t>,
                 std::vector<double>, std::vector<std::string>>;

struct GgufTensor {
  std::string name;
  std::uint32_t type = 0;  ///< ggml type number
  Shape shape;             ///< row-major (GGUF's dimensions reversed): [rows, cols]
  std::span<const std::byte> bytes;
};

class GgufFile {
 public:
  /// Checks magic, version, every count, length and offset against the file's size, before memory
  /// is taken for them. Tensors of types that kv8 does not read are refused.
  static Result<GgufFile> open(const std::filesystem::path& path);
  const std::map<std::string, GgufValue, std::less<>>& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::map<std::string, GgufValue, std::less<>> metadata_;
  std::vector<GgufTensor> tensors_;
};

/// Elements of a tensor in FP32. Types F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K,
/// Q6_K; others are refused with this list.
Result<std::vector<float>> dequantize_gguf(const GgufTensor& tensor);

/// Writes config.json, model.safetensors (FP16), tokenizer.json, tokenizer_config.json (with the
/// chat template) and generation_config.json into `dir`. Architectures llama, qwen2, qwen3.
Status import_gguf(const std::filesystem::path& file, const std::filesystem::path& dir,
                   const Reporter& reporter);

}  // namespace kv8::io
