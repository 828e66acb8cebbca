// Files: read-only mappings, and outputs that appear whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace kv8 {

/// A file mapped read-only. Copies share the mapping, which lives as long as any of them.
class MappedFile {
 public:
  static Result<MappedFile> open(const std::filesystem::path& path);
  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::shared_ptr<void> mapping_;
  std::span<const std::byte> bytes_;
  std::filesystem::path path_;
};

/// Reads a whole file of at most `max_bytes`; a larger one is an error, not an allocation.
Result<std::string> read_text_file(const std::filesystem::path& path,
                                   std::uint64_t max_bytes = std::uint64_t{1} << 30);

/// Writes to a temporary name beside `path`; `commit` renames it into place, and a destructor
/// without commit (an error, Ctrl-C) removes it. Every write reports disk full and the like.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::filesystem::path& path);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status write(std::span<const std::byte> data);
  Status write(std::string_view text) { return write(std::as_bytes(std::span(text))); }
  /// Appends zero bytes until the size is a multiple of `alignment`.
  Status pad_to(std::uint64_t alignment);
  /// Overwrites bytes written before (a header whose hash is known last).
  Status write_at(std::uint64_t offset, std::span<const std::byte> data);
  std::uint64_t size() const { return size_; }
  Status commit();

 private:
  AtomicFile() = default;
  int fd_ = -1;
  std::uint64_t size_ = 0;
  std::filesystem::path path_, temporary_;
};

Status write_text_file(const std::filesystem::path& path, std::string_view text);

/// A folder filled under a temporary name beside `path`. `commit` moves its files into `path`:
/// by one rename where `path` does not exist, else file by file over what is there.
/// A destructor without commit removes the temporary folder.
class AtomicDir {
 public:
  static Result<AtomicDir> create(const std::filesystem::path& path);
  AtomicDir(AtomicDir&& other) noexcept;
  AtomicDir& operator=(AtomicDir&&) = delete;
  ~AtomicDir();

  /// Where to write the files before commit.
  const std::filesystem::path& temporary() const { return temporary_; }
  Status commit();

 private:
  AtomicDir() = default;
  std::filesystem::path path_, temporary_;
};

Status copy_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace kv8
