#include <gmock/gmock.h>

#include <limits>

#include "io/gguf_testing.h"

namespace kv8::io {
namespace {

using ::testing::ElementsAre;

class GgufReaderTest : public ::testing::Test {
 protected:
  Result<GgufFile> open_raw(std::string_view bytes) {
    write_raw(dir_ / "x.gguf", bytes);
    return GgufFile::open(dir_ / "x.gguf");
  }
  Result<GgufFile> open(const GgufBuilder& builder) { return open_raw(builder.build()); }
  TempDir dir_;
};

GgufBuilder small_file() {
  GgufBuilder b;
  b.text("general.architecture", "llama").u32("n", 7).f32("f", 0.5f).flag("yes", true);
  b.set("i64", 11, raw(std::int64_t{-9})).set("f64", 12, raw(2.25)).set("i8", 1, raw('\xfe'));
  b.texts("words", {"a", "", "two words"}).i32s("ints", {-1, 2}).f32s("floats", {0.25f});
  b.array("flags", GgufBuilder::kBool, 2, std::string("\1\0", 2));
  b.floats("v", {3}, {1, 2, 3}).floats("m", {2, 4}, {0, 1, 2, 3, 4, 5, 6, 7});
  return b;
}

TEST_F(GgufReaderTest, ReadsMetadataAndTensors) {
  for (const std::uint32_t version : {2u, 3u}) {
    GgufBuilder builder = small_file();
    builder.version = version;
    const auto file = open(builder);
    ASSERT_TRUE(file.ok()) << file.error().message;
    const auto& metadata = file->metadata();
    EXPECT_EQ(metadata.size(), 11u);
    EXPECT_EQ(std::get<std::string>(metadata.at("general.architecture")), "llama");
    EXPECT_EQ(std::get<std::uint64_t>(metadata.at("n")), 7u);
    EXPECT_EQ(std::get<double>(metadata.at("f")), 0.5);
    EXPECT_EQ(std::get<double>(metadata.at("f64")), 2.25);
    EXPECT_EQ(std::get<bool>(metadata.at("yes")), true);
    EXPECT_EQ(std::get<std::int64_t>(metadata.at("i64")), -9);
    EXPECT_EQ(std::get<std::int64_t>(metadata.at("i8")), -2);
    EXPECT_THAT(std::get<std::vector<std::string>>(metadata.at("words")),
                ElementsAre("a", "", "two words"));
    EXPECT_THAT(std::get<std::vector<std::int64_t>>(metadata.at("ints")), ElementsAre(-1, 2));
    EXPECT_THAT(std::get<std::vector<double>>(metadata.at("floats")), ElementsAre(0.25));
    EXPECT_THAT(std::get<std::vector<std::int64_t>>(metadata.at("flags")), ElementsAre(1, 0));
    ASSERT_EQ(file->tensors().size(), 2u);
    EXPECT_EQ(file->tensors()[1].name, "m");
    EXPECT_EQ(file->tensors()[1].shape, (Shape{2, 4}));
    EXPECT_THAT(dequantize_gguf(file->tensors()[1]).value(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
    EXPECT_THAT(dequantize_gguf(file->tensors()[0]).value(), ElementsAre(1, 2, 3));
  }
}

TEST_F(GgufReaderTest, HonoursAlignment) {
  GgufBuilder builder = small_file();
  builder.alignment = 128;
  builder.u32("general.alignment", 128);
  const auto file = open(builder);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_THAT(dequantize_gguf(file->tensors()[0]).value(), ElementsAre(1, 2, 3));
  for (const std::uint32_t bad : {0u, 3u, 48u, 1u << 21}) {
    builder.u32("general.alignment", bad);
    expect_error(open(builder), {"general.alignment"});
  }
  builder.text("general.alignment", "32");
  expect_error(open(builder), {"general.alignment"});
}

TEST_F(GgufReaderTest, RefusesOtherFiles) {
  expect_error(open_raw(""), {"x.gguf", "truncated"});
  expect_error(open_raw("GGML" + std::string(100, '\0')), {"not a GGUF file"});
  GgufBuilder builder = small_file();
  builder.version = 1;
  expect_error(open(builder), {"version 1", "2 and 3"});
  builder.version = 0x03000000;
  expect_error(open(builder), {"big-endian"});
  expect_error(GgufFile::open(dir_ / "absent"), {"absent"});
}

TEST_F(GgufReaderTest, RefusesLyingCounts) {
  for (const std::int64_t lie : {std::int64_t{1} << 20, std::int64_t{1} << 62,
                                 std::numeric_limits<std::int64_t>::min(), std::int64_t{-100}}) {
    GgufBuilder builder = small_file();
    builder.extra_tensors = lie;
    expect_error(open(builder), {"x.gguf", "tensor count"});
    builder.extra_tensors = 0;
    builder.extra_pairs = lie;
    expect_error(open(builder), {"x.gguf", "metadata count"});
  }
  for (const std::uint64_t count :
       {std::uint64_t{1000}, std::uint64_t{1} << 60, ~std::uint64_t{0}}) {
    for (const std::uint32_t type : {0u, 4u, 6u, 8u, 12u}) {
      GgufBuilder builder;
      builder.array("list", type, count, "123456789");
      expect_error(open(builder), {"length of list"});
    }
    GgufBuilder builder;
    builder.set("s", GgufBuilder::kString, raw(count) + "abc");
    expect_error(open(builder), {"x.gguf", "s at byte"});
  }
}

TEST_F(GgufReaderTest, RefusesBrokenValues) {
  const auto with = [&](std::uint32_t type, const std::string& payload) {
    GgufBuilder builder;
    builder.set("k", type, payload);
    return open(builder);
  };
  expect_error(with(13, raw(0)), {"value type 13"});
  expect_error(with(GgufBuilder::kBool, "\x02"), {"no bool"});
  expect_error(with(GgufBuilder::kArray,
                    raw(std::uint32_t{9}) + raw(std::uint64_t{1}) + std::string(50, '\0')),
               {"arrays of arrays"});
  expect_error(with(GgufBuilder::kArray,
                    raw(GgufBuilder::kU64) + raw(std::uint64_t{1}) + raw(~std::uint64_t{0})),
               {"too large"});
  const std::string twice = raw_string("k") + raw(GgufBuilder::kU8) + "1";
  expect_error(
      open_raw("GGUF" + raw(3u) + raw(std::uint64_t{0}) + raw(std::uint64_t{2}) + twice + twice),
      {"key k is there twice"});
  GgufBuilder control;
  control.u32("line\nbreak", 1);
  expect_error(open(control), {"not a name", "\\x0a"});
  GgufBuilder lengthy;
  lengthy.u32(std::string(2000, 'k'), 1);
  expect_error(open(lengthy), {"2000 bytes"});
}

TEST_F(GgufReaderTest, RefusesBrokenTensors) {
  const auto with = [&](GgufBuilder::Tensor tensor) {
    GgufBuilder builder = small_file();
    builder.tensor(std::move(tensor));
    return open(builder);
  };
  const std::string data(64, '\0');
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  expect_error(with({"t", 10, {256}, data}), {"tensor t", "Q2_K", "Q4_1", "Q6_K"});
  expect_error(with({"t", 4242, {1}, data}), {"tensor t", "number 4242"});
  expect_error(with({"t", 2, {2, 31}, data}), {"tensor t", "31", "Q4_0 blocks of 32"});
  expect_error(with({"t", 0, {1, 1, 1, 1, 1}, data}), {"tensor t", "5 dimensions"});
  expect_error(with({"t", 0, {0}, data}), {"tensor t", "dimension is 0"});
  expect_error(with({"t", 0, {-1}, data}), {"tensor t", "dimension is 18446744073709551615"});
  expect_error(with({"t", 0, {kHuge, kHuge}, data}), {"tensor t"});
  expect_error(with({"t", 0, {kHuge}, data}), {"tensor t"});
  expect_error(with({"t", 0, {100}, data}), {"tensor t", "beyond"});
  expect_error(with({"t", 0, {16}, data, kHuge}), {"tensor t", "beyond"});
  expect_error(with({"t", 0, {16}, data, 65}), {"tensor t", "alignment"});
  expect_error(with({"t", 0, {16}, data, 32}), {"overlap"});
  expect_error(with({"", 0, {16}, data}), {"tensor name"});
}

TEST_F(GgufReaderTest, SurvivesTruncationAndFlippedBytes) {
  const std::string good = small_file().build();
  for (std::size_t size = 0; size < good.size(); size += 7) {
    EXPECT_FALSE(open_raw(good.substr(0, size)).ok()) << size;
  }
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char flip : {'\x01', '\x80', '\xff'}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto file = open_raw(bad);
      if (!file.ok()) continue;
      for (const GgufTensor& tensor : file->tensors()) (void)dequantize_gguf(tensor);
    }
  }
}

}  // namespace
}  // namespace kv8::io
