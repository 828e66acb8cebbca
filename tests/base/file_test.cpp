#include "base/file.h"

#include <gtest/gtest.h>

#include "base/temp_dir.h"

namespace kv8 {
namespace {

using test::read_bytes;
using test::TempDir;
using test::write_bytes;

int entries(const std::filesystem::path& dir) {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator(dir), {}));
}

TEST(MappedFile, ShowsTheBytes) {
  const TempDir dir;
  write_bytes(dir / "a", "hello");
  const auto file = MappedFile::open(dir / "a");
  ASSERT_TRUE(file.ok());
  const MappedFile copy = *file;
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(copy.bytes().data()), 5), "hello");
}

TEST(MappedFile, EmptyMissingAndFolder) {
  const TempDir dir;
  write_bytes(dir / "empty", "");
  EXPECT_EQ(MappedFile::open(dir / "empty")->bytes().size(), 0u);
  EXPECT_EQ(MappedFile::open(dir / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MappedFile::open(dir.path()).error().code, ErrorCode::kIo);
}

TEST(ReadTextFile, RefusesLargerThanAsked) {
  const TempDir dir;
  write_bytes(dir / "a", "12345");
  EXPECT_EQ(*read_text_file(dir / "a", 5), "12345");
  EXPECT_FALSE(read_text_file(dir / "a", 4).ok());
}

TEST(AtomicFile, AppearsOnlyAtCommit) {
  const TempDir dir;
  {
    auto file = AtomicFile::create(dir / "out").value();
    ASSERT_TRUE(file.write("abc").ok());
    ASSERT_TRUE(file.pad_to(64).ok());
    ASSERT_TRUE(file.write_at(1, std::as_bytes(std::span("X", 1))).ok());
    EXPECT_EQ(file.size(), 64u);
    EXPECT_FALSE(std::filesystem::exists(dir / "out"));
    ASSERT_TRUE(file.commit().ok());
  }
  const std::string bytes = read_bytes(dir / "out");
  EXPECT_EQ(bytes.substr(0, 4), std::string("aXc\0", 4));
  EXPECT_EQ(bytes.size(), 64u);
  EXPECT_EQ(entries(dir.path()), 1);
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TempDir dir;
  write_bytes(dir / "out", "old");
  {
    auto file = AtomicFile::create(dir / "out").value();
    ASSERT_TRUE(file.write("new").ok());
  }
  EXPECT_EQ(read_bytes(dir / "out"), "old");
  EXPECT_EQ(entries(dir.path()), 1);
}

TEST(AtomicFile, ReportsAFullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TempDir dir;
  // The temporary name of `out` is a link to /dev/full, so that every write fails as on a full
  // disk.
  const auto temporary = dir / ("out.tmp-" + std::to_string(::getpid()));
  std::filesystem::create_symlink("/dev/full", temporary);
  auto file = AtomicFile::create(dir / "out").value();
  const Status status = file.write("x");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
  EXPECT_NE(status.error().message.find("No space left"), std::string::npos);
}

TEST(AtomicFile, UnwritableFolderIsAnError) {
  const auto file = AtomicFile::create("/nonexistent-folder/out");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.error().message.find("/nonexistent-folder/out"), std::string::npos);
}

TEST(AtomicDir, AppearsWholeOrNotAtAll) {
  const TempDir dir;
  {
    auto out = AtomicDir::create(dir / "out").value();
    write_bytes(out.temporary() / "a", "1");
  }
  EXPECT_EQ(entries(dir.path()), 0);
  auto out = AtomicDir::create(dir / "out").value();
  write_bytes(out.temporary() / "a", "1");
  ASSERT_TRUE(out.commit().ok());
  EXPECT_EQ(read_bytes(dir / "out" / "a"), "1");
}

TEST(AtomicDir, ReplacesFilesOfAnExistingFolder) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "out");
  write_bytes(dir / "out" / "a", "old");
  write_bytes(dir / "out" / "kept", "kept");
  {
    auto out = AtomicDir::create(dir / "out").value();
    write_bytes(out.temporary() / "a", "new");
    ASSERT_TRUE(out.commit().ok());
  }
  EXPECT_EQ(read_bytes(dir / "out" / "a"), "new");
  EXPECT_EQ(read_bytes(dir / "out" / "kept"), "kept");
  EXPECT_EQ(entries(dir.path()), 1);
}

TEST(AtomicDir, RefusesAFileInItsPlace) {
  const TempDir dir;
  write_bytes(dir / "out", "file");
  EXPECT_FALSE(AtomicDir::create(dir / "out").ok());
}

}  // namespace
}  // namespace kv8
