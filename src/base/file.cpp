#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

namespace kv8 {
namespace fs = std::filesystem;
namespace {

std::string errno_text() { return std::generic_category().message(errno); }

fs::path temporary_name(const fs::path& path) {
  fs::path name = path;
  if (!name.has_filename()) name = name.parent_path();
  name += fmt::format(".tmp-{}", ::getpid());
  return name;
}

}  // namespace

Result<MappedFile> MappedFile::open(const fs::path& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const auto code = errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo;
    return Error::format(code, "{}: cannot be opened: {}", path.string(), errno_text());
  }
  struct stat info = {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return io_error("{}: not a regular file", path.string());
  }
  MappedFile file;
  file.path_ = path;
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size > 0) {
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      const std::string reason = errno_text();
      ::close(fd);
      return io_error("{}: cannot be mapped: {}", path.string(), reason);
    }
    file.mapping_ = std::shared_ptr<void>(memory, [size](void* start) { ::munmap(start, size); });
    file.bytes_ = {static_cast<const std::byte*>(memory), size};
  }
  ::close(fd);
  return file;
}

Result<std::string> read_text_file(const fs::path& path, std::uint64_t max_bytes) {
  const MappedFile file = KV8_TRY(MappedFile::open(path));
  if (file.bytes().size() > max_bytes) {
    return bad_input("{}: {} bytes, more than the {} that kv8 reads of such a file", path.string(),
                     file.bytes().size(), max_bytes);
  }
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

Result<AtomicFile> AtomicFile::create(const fs::path& path) {
  AtomicFile file;
  file.path_ = path;
  file.temporary_ = temporary_name(path);
  file.fd_ = ::open(file.temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file.fd_ < 0) {
    return io_error("{}: cannot be written: {}", path.string(), errno_text());
  }
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})) {}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status AtomicFile::write(std::span<const std::byte> data) {
  KV8_TRY(write_at(size_, data));
  size_ += data.size();
  return {};
}

Status AtomicFile::pad_to(std::uint64_t alignment) {
  static constexpr std::array<std::byte, 64> kZeros{};
  while (size_ % alignment != 0) {
    const auto missing = std::min<std::uint64_t>(alignment - size_ % alignment, kZeros.size());
    KV8_TRY(write(std::span(kZeros).first(missing)));
  }
  return {};
}

Status AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t written = ::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return io_error("{}: write failed: {}", path_.string(), errno_text());
    offset += static_cast<std::uint64_t>(written);
    data = data.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Status AtomicFile::commit() {
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) return io_error("{}: write failed: {}", path_.string(), errno_text());
  std::error_code failure;
  fs::rename(temporary_, path_, failure);
  if (failure) return io_error("{}: cannot be put in place: {}", path_.string(), failure.message());
  temporary_.clear();
  return {};
}

Status write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file = KV8_TRY(AtomicFile::create(path));
  KV8_TRY(file.write(text));
  return file.commit();
}

Result<AtomicDir> AtomicDir::create(const fs::path& path) {
  std::error_code failure;
  if (fs::exists(path, failure) && !fs::is_directory(path, failure)) {
    return io_error("{}: is there and is not a folder", path.string());
  }
  AtomicDir dir;
  dir.path_ = path;
  dir.temporary_ = temporary_name(path);
  fs::remove_all(dir.temporary_, failure);
  if (!fs::create_directories(dir.temporary_, failure) || failure) {
    const std::string reason = failure ? failure.message() : "it already exists";
    dir.temporary_.clear();
    return io_error("{}: cannot be created: {}", path.string(), reason);
  }
  return dir;
}

AtomicDir::AtomicDir(AtomicDir&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, {})) {}

AtomicDir::~AtomicDir() {
  if (temporary_.empty()) return;
  std::error_code ignored;
  fs::remove_all(temporary_, ignored);
}

Status AtomicDir::commit() {
  std::error_code failure;
  if (!fs::exists(path_, failure)) {
    fs::rename(temporary_, path_, failure);
    if (failure) {
      return io_error("{}: cannot be put in place: {}", path_.string(), failure.message());
    }
    temporary_.clear();
    return {};
  }
  for (const auto& entry : fs::directory_iterator(temporary_, failure)) {
    fs::rename(entry.path(), path_ / entry.path().filename(), failure);
    if (failure) {
      return io_error("{}: cannot be put in place: {}", (path_ / entry.path().filename()).string(),
                      failure.message());
    }
  }
  if (failure) return io_error("{}: {}", temporary_.string(), failure.message());
  return {};
}

Status copy_file(const fs::path& from, const fs::path& to) {
  const MappedFile source = KV8_TRY(MappedFile::open(from));
  AtomicFile target = KV8_TRY(AtomicFile::create(to));
  KV8_TRY(target.write(source.bytes()));
  return target.commit();
}

}  // namespace kv8
