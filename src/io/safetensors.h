// safetensors files: 8 bytes of header length, a JSON header, raw tensors.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace kv8::io {

/// A file mapped into memory. Opening checks the whole header: its size, JSON, dtypes, shapes
/// against byte ranges, ranges inside the file and not overlapping.
class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::filesystem::path& path);
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return file_.path(); }
  Result<TensorView> tensor(std::string_view name) const;

 private:
  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A tensor whose bytes are written later.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

/// Writes one file piece by piece, so that its tensors need not be in memory together. The data
/// section starts 64-byte aligned. Without `commit` no file appears.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> create(const std::filesystem::path& path,
                                          const std::vector<TensorSpec>& tensors,
                                          const std::map<std::string, std::string>& metadata = {});
  /// Appends to the data: the tensors in the order given to `create`, in pieces of any size.
  Status write(std::span<const std::byte> data);
  /// Every byte must have been written.
  Status commit();

 private:
  explicit SafetensorsWriter(AtomicFile file) : file_(std::move(file)) {}
  AtomicFile file_;
  std::uint64_t expected_size_ = 0;
};

/// A tensor to be written; `tensor.bytes` is read when the file is written.
struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes one file by SafetensorsWriter. Deterministic: order as given.
Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

/// Writes `dir`/model.safetensors, or, when the tensors exceed `max_shard_bytes`,
/// model-00001-of-0000N.safetensors… and model.safetensors.index.json.
Status write_sharded_safetensors(const std::filesystem::path& dir,
                                 const std::vector<NamedTensor>& tensors,
                                 std::uint64_t max_shard_bytes = std::uint64_t{10} << 30);

}  // namespace kv8::io
