#include "io/safetensors.h"

#include <gmock/gmock.h>

#include <string>

#include "base/json.h"
#include "io/io_testing.h"

namespace kv8::io {
namespace {

constexpr std::string_view kTwoTensors = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                         R"("b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";

class SafetensorsTest : public ::testing::Test {
 protected:
  Result<SafetensorsFile> open_raw(std::string_view bytes) {
    write_raw(dir_ / "x.safetensors", bytes);
    return SafetensorsFile::open(dir_ / "x.safetensors");
  }
  Result<SafetensorsFile> open_header(std::string_view header, std::size_t data_bytes) {
    return open_raw(raw_safetensors(header, std::string(data_bytes, '\1')));
  }
  TempDir dir_;
};

/// Bytes 0, 1, 2, … as a tensor of any type.
NamedTensor counting_tensor(std::string name, DType dtype, Shape shape) {
  const auto size =
      static_cast<std::size_t>(checked_num_elements(shape).value()) * dtype_size(dtype);
  auto memory = std::make_shared<Buffer>(size);
  for (std::size_t i = 0; i < size; ++i) memory->data()[i] = static_cast<std::byte>(i);
  const std::span<const std::byte> bytes(memory->data(), size);
  return {std::move(name), TensorView{dtype, std::move(shape), bytes, memory}};
}

TEST_F(SafetensorsTest, WritesAndReadsEveryType) {
  std::vector<NamedTensor> tensors;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kU8,
                            DType::kI32, DType::kI64, DType::kBool}) {
    tensors.push_back(counting_tensor("t." + std::string(dtype_name(dtype)), dtype, {3, 5}));
  }
  tensors.push_back(counting_tensor("scalar", DType::kF32, {}));
  tensors.push_back(counting_tensor("empty", DType::kF16, {4, 0}));
  const auto path = dir_ / "all.safetensors";
  ASSERT_TRUE(write_safetensors(path, tensors, {{"format", "pt"}, {"quote\"", "back\\"}}).ok());

  const auto file = SafetensorsFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->metadata().at("quote\""), "back\\");
  EXPECT_EQ(file->tensors().size(), tensors.size());
  for (const NamedTensor& expected : tensors) {
    const TensorView view = file->tensor(expected.name).value();
    EXPECT_EQ(view.dtype, expected.tensor.dtype);
    EXPECT_EQ(view.shape, expected.tensor.shape);
    EXPECT_TRUE(std::ranges::equal(view.bytes, expected.tensor.bytes)) << expected.name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.bytes.data()) % dtype_size(view.dtype), 0u);
  }
  expect_error(file->tensor("missing"), {"all.safetensors", "missing"});
}

TEST_F(SafetensorsTest, WritesAlignedDeterministicData) {
  const std::vector<NamedTensor> tensors = {counting_tensor("z", DType::kF16, {7}),
                                            counting_tensor("a", DType::kF16, {7})};
  ASSERT_TRUE(write_safetensors(dir_ / "1", tensors).ok());
  ASSERT_TRUE(write_safetensors(dir_ / "2", tensors).ok());
  const std::string bytes = read_raw(dir_ / "1");
  EXPECT_EQ(bytes, read_raw(dir_ / "2"));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  EXPECT_EQ((8 + length) % 64, 0u);
  EXPECT_LT(bytes.find("\"z\""), bytes.find("\"a\"")) << "order as given";
}

TEST_F(SafetensorsTest, ViewsOutliveTheFile) {
  ASSERT_TRUE(write_safetensors(dir_ / "x", {counting_tensor("t", DType::kU8, {100})}).ok());
  TensorView view;
  {
    const auto file = SafetensorsFile::open(dir_ / "x");
    view = file->tensor("t").value();
  }
  EXPECT_EQ(view.bytes[99], std::byte{99});
}

TEST_F(SafetensorsTest, CopiesTensorsAtOddAddresses) {
  const std::string header = R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})";
  const float value = 1.5f;
  std::string data(5, '\0');
  std::memcpy(data.data() + 1, &value, sizeof value);
  const auto file = open_raw(raw_safetensors(header, data));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*file->tensor("f")->data<float>(), 1.5f);
}

TEST_F(SafetensorsTest, RefusesBrokenContainers) {
  expect_error(open_raw(""), {"x.safetensors", "too short"});
  expect_error(open_raw("1234567"), {"too short"});
  expect_error(open_raw(std::string(16, '\xff')), {"claims 18446744073709551615 bytes"});
  const std::string good = raw_safetensors(kTwoTensors, std::string(11, 'x'));
  ASSERT_TRUE(open_raw(good).ok());
  expect_error(open_raw(good.substr(0, 20)), {"truncated"});
  expect_error(open_raw(good.substr(0, good.size() - 1)), {"truncated"});
  expect_error(open_raw(good + "y"), {"1 bytes after b belong to no tensor"});
  expect_error(SafetensorsFile::open(dir_ / "absent"), {"absent", "cannot be opened"});
  expect_error(SafetensorsFile::open(dir_.path()), {"not a regular file"});
}

TEST_F(SafetensorsTest, RefusesBrokenHeaders) {
  expect_error(open_header("", 0), {"not valid JSON"});
  expect_error(open_header("[]", 0), {"not a JSON object"});
  expect_error(open_header("{\"a\":", 0), {"not valid JSON"});
  expect_error(open_header("{\"\xff\":1}", 0), {"not valid JSON"});
  expect_error(open_header(std::string(100'000, '['), 0), {"nested deeper"});
  expect_error(open_header(R"({"a":1})", 0), {"tensor a", "not an object"});
  expect_error(open_header(R"({"__metadata__":{"k":1}})", 0), {"__metadata__", "k"});
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_error(open_header("{\"a\":" + entry + ",\"a\":" + entry + "}", 1),
               {"x.safetensors", "\"a\" twice"});
}

TEST_F(SafetensorsTest, RefusesBrokenEntries) {
  const auto with = [&](std::string_view fields, std::size_t data_bytes) {
    return open_header(fmt::format(R"({{"a":{{{}}}}})", fields), data_bytes);
  };
  expect_error(with(R"("shape":[1],"data_offsets":[0,1])", 1), {"tensor a", "`dtype`"});
  expect_error(with(R"("dtype":"F4","shape":[1],"data_offsets":[0,1])", 1), {"tensor a", "F4"});
  expect_error(with(R"("dtype":"U8","data_offsets":[0,1])", 1), {"`shape`"});
  expect_error(with(R"("dtype":"U8","shape":[1])", 1), {"`data_offsets`"});
  expect_error(with(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])", 1), {"`shape`", "-1"});
  expect_error(with(R"("dtype":"U8","shape":[1.5],"data_offsets":[0,1])", 1), {"`shape`", "1.5"});
  expect_error(with(R"("dtype":"U8","shape":[1],"data_offsets":[1])", 1), {"pair"});
  expect_error(with(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])", 1), {"begin <= end"});
  expect_error(with(R"("dtype":"U8","shape":[2],"data_offsets":[0,1])", 1), {"needs 2 elements"});
  expect_error(with(R"("dtype":"F32","shape":[1],"data_offsets":[0,3])", 3), {"span 3"});
  expect_error(with(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
               {"tensor a"});
  expect_error(with(R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,1])", 1),
               {"`shape`"});
  expect_error(
      with(R"("dtype":"U8","shape":[1],"data_offsets":[9223372036854775800,9223372036854775801])",
           1),
      {"truncated"});
}

TEST_F(SafetensorsTest, RefusesOverlapsAndGaps) {
  const auto two = [&](std::string_view a, std::string_view b) {
    return open_header(fmt::format(R"({{"a":{{"dtype":"U8","shape":[4],"data_offsets":[{}]}},)"
                                   R"("b":{{"dtype":"U8","shape":[4],"data_offsets":[{}]}}}})",
                                   a, b),
                       8);
  };
  ASSERT_TRUE(two("0,4", "4,8").ok());
  ASSERT_TRUE(two("4,8", "0,4").ok());
  expect_error(two("0,4", "3,7"), {"a and b overlap at byte 3"});
  expect_error(two("0,4", "0,4"), {"overlap"});
  expect_error(open_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                           R"("b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})",
                           8),
               {"2 bytes between a and tensor b"});
  expect_error(open_header(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8),
               {"4 bytes between the header and tensor a"});
}

TEST_F(SafetensorsTest, SurvivesTruncationAndFlippedBytes) {
  const std::string good = raw_safetensors(kTwoTensors, std::string(11, 'x'));
  for (std::size_t size = 0; size < good.size(); size += 7) {
    EXPECT_FALSE(open_raw(good.substr(0, size)).ok()) << size;
  }
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char flip : {'\x01', '\x10', '\x80', '\xff'}) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const auto file = open_raw(bad);
      if (!file.ok()) continue;
      for (const auto& [name, view] : file->tensors()) {
        EXPECT_EQ(view.bytes.size(),
                  static_cast<std::size_t>(view.num_elements()) * dtype_size(view.dtype));
      }
    }
  }
}

TEST_F(SafetensorsTest, ShardsAtTheLimit) {
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < 5; ++i) {
    tensors.push_back(counting_tensor(fmt::format("t{}", i), DType::kU8, {40}));
  }
  tensors.push_back(counting_tensor("large", DType::kU8, {200}));
  ASSERT_TRUE(write_sharded_safetensors(dir_.path(), tensors, 100).ok());
  const Json index = read_json_file(dir_ / "model.safetensors.index.json").value();
  EXPECT_EQ(index["metadata"]["total_size"], 400);
  const Json& map = index["weight_map"];
  EXPECT_EQ(map.size(), 6u);
  EXPECT_EQ(map["t1"], "model-00001-of-00004.safetensors");
  EXPECT_EQ(map["t2"], "model-00002-of-00004.safetensors");
  EXPECT_EQ(map["large"], "model-00004-of-00004.safetensors");
  for (const NamedTensor& expected : tensors) {
    const auto file = SafetensorsFile::open(dir_ / map[expected.name].get<std::string>());
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_TRUE(std::ranges::equal(file->tensor(expected.name)->bytes, expected.tensor.bytes));
  }
}

TEST_F(SafetensorsTest, WritesOneFileBelowTheLimit) {
  const std::vector<NamedTensor> tensors = {counting_tensor("t", DType::kU8, {40})};
  ASSERT_TRUE(write_sharded_safetensors(dir_.path(), tensors, 40).ok());
  EXPECT_TRUE(SafetensorsFile::open(dir_ / "model.safetensors").ok());
  EXPECT_FALSE(std::filesystem::exists(dir_ / "model.safetensors.index.json"));
}

TEST_F(SafetensorsTest, ReportsUnwritablePlaces) {
  const std::vector<NamedTensor> tensors = {counting_tensor("t", DType::kU8, {40})};
  expect_error(write_safetensors(dir_ / "no/such/folder/x", tensors), {"cannot be written"});
}

}  // namespace
}  // namespace kv8::io
