#include "graph/onnx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/file.h"
#include "base/temp_dir.h"
#include "graph/small_graph.h"
#include "onnx.pb.h"

namespace kv8::graph {
namespace {

namespace fs = std::filesystem;
using test::TempDir;
using ::testing::HasSubstr;

std::string bytes_of(const fs::path& path) { return read_text_file(path).value(); }

/// A new file each time: file systems write back at once what is truncated or renamed over.
void replace_file(const fs::path& path, std::string_view bytes) {
  fs::remove(path);
  test::write_bytes(path, bytes);
}

onnx::ModelProto parse(const fs::path& path) {
  onnx::ModelProto model;
  EXPECT_TRUE(model.ParseFromString(bytes_of(path)));
  return model;
}

class OnnxFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status status = write_onnx(small_graph(), dir_.path(), {});
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  fs::path model() const { return dir_.path() / "model.onnx"; }
  fs::path data() const { return dir_.path() / "model.onnx.data"; }
  TempDir dir_;
};

TEST_F(OnnxFile, ReadsBackTheSameGraph) {
  const Graph written = small_graph();
  const Result<Graph> read = read_onnx(model());
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(to_text(*read), to_text(written));
  for (std::size_t i = 0; i < written.initializers.size(); ++i) {
    const auto a = written.initializers[i].tensor.bytes, b = read->initializers[i].tensor.bytes;
    EXPECT_TRUE(std::ranges::equal(a, b)) << written.initializers[i].name;
  }
  for (std::size_t i = 0; i < written.nodes.size(); ++i) {
    EXPECT_EQ(read->nodes[i].name, written.nodes[i].name);
    EXPECT_EQ(read->nodes[i].attributes, written.nodes[i].attributes);
  }
}

TEST_F(OnnxFile, WriteReadWriteGivesTheSameBytes) {
  TempDir again;
  ASSERT_TRUE(write_onnx(read_onnx(model()).value(), again.path(), {}).ok());
  EXPECT_EQ(bytes_of(again.path() / "model.onnx"), bytes_of(model()));
  EXPECT_EQ(bytes_of(again.path() / "model.onnx.data"), bytes_of(data()));
}

TEST_F(OnnxFile, ExternalDataIsAlignedInOrderAndMapped) {
  const onnx::ModelProto proto = parse(model());
  std::uint64_t end = 0;
  std::vector<std::string> external;
  for (const onnx::TensorProto& tensor : proto.graph().initializer()) {
    if (tensor.data_location() != onnx::TensorProto::EXTERNAL) continue;
    external.push_back(tensor.name());
    ASSERT_EQ(tensor.external_data_size(), 3);
    EXPECT_EQ(tensor.external_data(0).value(), "model.onnx.data");
    const std::uint64_t offset = std::stoull(tensor.external_data(1).value());
    EXPECT_EQ(offset % 64, 0u) << tensor.name();
    EXPECT_GE(offset, end);
    end = offset + std::stoull(tensor.external_data(2).value());
  }
  EXPECT_EQ(external, (std::vector<std::string>{"w", "odd", "w2"}));
  EXPECT_EQ(end, fs::file_size(data()));

  const Graph graph = read_onnx(model()).value();
  const auto* w = graph.initializers[0].tensor.bytes.data();
  const auto* w2 = graph.initializers[2].tensor.bytes.data();
  EXPECT_EQ(w2 - w, 2048 + 1216);  // one mapping: 601 elements take 1202 bytes, padded to 1216
}

TEST_F(OnnxFile, TensorsOutliveTheGraph) {
  TensorView w = read_onnx(model()).value().initializers[0].tensor;
  EXPECT_EQ(w.data<std::uint16_t>()[1023], 0x2C00 + 1023);
}

TEST_F(OnnxFile, SaysWhichOpsetAndProducer) {
  const onnx::ModelProto proto = parse(model());
  EXPECT_EQ(proto.producer_name(), "kv8");
  ASSERT_EQ(proto.opset_import_size(), 1);
  EXPECT_EQ(proto.opset_import(0).version(), 24);
}

TEST(WriteOnnx, AGraphThatIsNotValidLeavesNothing) {
  TempDir dir;
  Graph graph = small_graph();
  graph.nodes.erase(graph.nodes.begin());
  EXPECT_FALSE(write_onnx(graph, dir.path(), {}).ok());
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(WriteOnnx, AnInterruptLeavesNothing) {
  TempDir dir;
  set_interrupted(true);
  const Status status = write_onnx(small_graph(), dir.path(), {});
  set_interrupted(false);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(WriteOnnx, AFolderThatIsNotThereIsAnIoError) {
  TempDir dir;
  const Status status = write_onnx(small_graph(), dir.path() / "missing", {});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kIo);
}

TEST(ReadOnnx, AcceptsInlineNumbersInTypedFields) {
  TempDir dir;
  ASSERT_TRUE(write_onnx(small_graph(), dir.path(), {}).ok());
  onnx::ModelProto proto = parse(dir.path() / "model.onnx");
  for (onnx::TensorProto& tensor : *proto.mutable_graph()->mutable_initializer()) {
    if (tensor.name() == "scale") {
      tensor.clear_raw_data();
      tensor.add_float_data(0.125f);
    } else if (tensor.name() == "shape") {
      tensor.clear_raw_data();
      for (const std::int64_t dim : {0, 2, -1, 32}) tensor.add_int64_data(dim);
    }
  }
  ASSERT_TRUE(write_text_file(dir.path() / "model.onnx", proto.SerializeAsString()).ok());
  const Result<Graph> graph = read_onnx(dir.path() / "model.onnx");
  ASSERT_TRUE(graph.ok()) << graph.error().message;
  EXPECT_EQ(*graph->find_initializer("scale")->tensor.data<float>(), 0.125f);
  EXPECT_EQ(graph->find_initializer("shape")->tensor.data<std::int64_t>()[2], -1);
  EXPECT_EQ(graph->find_initializer("nothing"), nullptr);
}

struct Damage {
  const char* name;
  std::function<void(onnx::ModelProto&)> apply;
  std::vector<std::string> expected;
};

onnx::TensorProto& tensor(onnx::ModelProto& model, int index) {
  return *model.mutable_graph()->mutable_initializer(index);
}
onnx::NodeProto& node(onnx::ModelProto& model, int index) {
  return *model.mutable_graph()->mutable_node(index);
}
Damage external(const char* name, int entry, std::string value, std::vector<std::string> expected) {
  expected.push_back("initializer `w`");
  return {name,
          [entry, value](onnx::ModelProto& model) {
            tensor(model, 0).mutable_external_data(entry)->set_value(value);
          },
          std::move(expected)};
}

class DamagedOnnx : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedOnnx, IsRefusedByName) {
  TempDir dir;
  const fs::path file = dir.path() / "model.onnx";
  ASSERT_TRUE(write_onnx(small_graph(), dir.path(), {}).ok());
  fs::create_directory(dir.path() / "folder");
  onnx::ModelProto proto = parse(file);
  GetParam().apply(proto);
  ASSERT_TRUE(write_text_file(file, proto.SerializeAsString()).ok());
  const Result<Graph> graph = read_onnx(file);
  ASSERT_FALSE(graph.ok());
  EXPECT_THAT(graph.error().message, HasSubstr(file.string()));
  for (const std::string& part : GetParam().expected) {
    EXPECT_THAT(graph.error().message, HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    ExternalData, DamagedOnnx,
    ::testing::Values(external("absolute", 0, "/etc/passwd", {"/etc/passwd", "plain name"}),
                      external("parent", 0, "../model.onnx.data",
                               {"../model.onnx.data", "plain name"}),
                      external("dotdot", 0, "..", {"plain name"}),
                      external("dot", 0, ".", {"plain name"}),
                      external("empty", 0, "", {"plain name"}),
                      external("nested", 0, "folder/model.onnx.data", {"plain name"}),
                      external("trailing_slash", 0, "folder/", {"plain name"}),
                      external("nul", 0, std::string("model.onnx.data\0x", 17), {"plain name"}),
                      external("missing", 0, "absent.data", {"absent.data", "cannot be opened"}),
                      external("a_folder", 0, "folder", {"folder", "not a regular file"}),
                      external("outside", 1, "4096000", {"4096000", "outside"}),
                      external("last_byte", 1, "3266", {"outside"}),
                      external("overflow", 1, "18446744073709551615", {"outside"}),
                      external("too_long_a_number", 1, "118446744073709551615", {"whole number"}),
                      external("negative", 1, "-64", {"whole number"}),
                      external("not_a_number", 1, "64x", {"whole number"}),
                      external("misaligned", 1, "65", {"multiple of the 2 bytes"}),
                      external("shorter", 2, "2046", {"2046", "2048"}),
                      external("longer", 2, "18446744073709551615", {"2048"})),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensors, DamagedOnnx,
    ::testing::Values(
        Damage{"unknown_type", [](auto& m) { tensor(m, 0).set_data_type(23); }, {"`w`", "23"}},
        Damage{"other_type", [](auto& m) { tensor(m, 0).set_data_type(1); }, {"`w`", "4096"}},
        Damage{"negative_dim", [](auto& m) { tensor(m, 0).set_dims(0, -32); }, {"`w`", "-32"}},
        Damage{"huge_dims",
               [](auto& m) {
                 tensor(m, 0).set_dims(0, std::int64_t{1} << 33);
                 tensor(m, 0).set_dims(1, std::int64_t{1} << 33);
               },
               {"`w`"}},
        Damage{"bytes_overflow",
               [](auto& m) {
                 tensor(m, 3).clear_raw_data();
                 tensor(m, 3).set_raw_data("");
                 tensor(m, 3).add_dims(std::int64_t{1} << 62);
               },
               {"`scale`"}},
        Damage{"short_inline",
               [](auto& m) { tensor(m, 4).set_raw_data("1234567"); },
               {"`head_scales`", "8 bytes"}},
        Damage{"no_data", [](auto& m) { tensor(m, 3).clear_raw_data(); }, {"`scale`", "raw_data"}},
        Damage{"segment",
               [](auto& m) { tensor(m, 3).mutable_segment()->set_begin(1); },
               {"`scale`", "segments"}},
        Damage{"name_twice", [](auto& m) { tensor(m, 1).set_name("w"); }, {"`w`"}}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Structure, DamagedOnnx,
    ::testing::Values(
        Damage{"older_opset",
               [](auto& m) { m.mutable_opset_import(0)->set_version(23); },
               {"opset 23", "opset 24"}},
        Damage{"no_opset", [](auto& m) { m.clear_opset_import(); }, {"opset"}},
        Damage{"no_graph", [](auto& m) { m.clear_graph(); }, {"no graph"}},
        Damage{"foreign_domain",
               [](auto& m) { node(m, 6).set_domain("com.microsoft"); },
               {"`context`", "Attention", "com.microsoft"}},
        Damage{"unknown_operator",
               [](auto& m) { node(m, 6).set_op_type("Softmax"); },
               {"`context`", "Softmax"}},
        Damage{"cycle", [](auto& m) { node(m, 0).set_input(0, "y"); }, {"`w.f32`", "`y`"}},
        Damage{"attribute_twice",
               [](auto& m) { *node(m, 0).add_attribute() = node(m, 0).attribute(0); },
               {"`w.f32`", "`to`"}},
        Damage{"graph_attribute",
               [](auto& m) {
                 auto* attribute = node(m, 0).mutable_attribute(0);
                 attribute->set_type(onnx::AttributeProto::GRAPH);
                 attribute->mutable_g()->set_name("inner");
               },
               {"`w.f32`", "`to`"}},
        Damage{"attribute_without_type",
               [](auto& m) { node(m, 0).mutable_attribute(0)->clear_type(); },
               {"`w.f32`", "`to`"}},
        Damage{"function_attribute",
               [](auto& m) { node(m, 0).mutable_attribute(0)->set_ref_attr_name("outer"); },
               {"`w.f32`", "`to`"}},
        Damage{"function", [](auto& m) { m.add_functions()->set_name("f"); }, {"functions"}},
        Damage{"sparse", [](auto& m) { m.mutable_graph()->add_sparse_initializer(); }, {"sparse"}},
        Damage{"untyped_input",
               [](auto& m) { m.mutable_graph()->mutable_input(0)->clear_type(); },
               {"`x`"}},
        Damage{"negative_input_dim",
               [](auto& m) {
                 m.mutable_graph()
                     ->mutable_input(0)
                     ->mutable_type()
                     ->mutable_tensor_type()
                     ->mutable_shape()
                     ->mutable_dim(1)
                     ->set_dim_value(-2);
               },
               {"`x`", "-2"}},
        Damage{"input_of_unknown_type",
               [](auto& m) {
                 m.mutable_graph()
                     ->mutable_input(0)
                     ->mutable_type()
                     ->mutable_tensor_type()
                     ->set_elem_type(1000);
               },
               {"`x`", "1000"}}),
    [](const auto& info) { return info.param.name; });

TEST_F(OnnxFile, CutAnywhereIsRefused) {
  const std::string whole = bytes_of(model());
  const std::string opset = parse(model()).opset_import(0).SerializeAsString();
  const std::size_t needed = whole.find(opset, whole.size() / 2) + opset.size();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    replace_file(model(), whole.substr(0, size));
    const Result<Graph> graph = read_onnx(model());
    if (size < needed) {
      EXPECT_FALSE(graph.ok()) << size << " of " << whole.size();
    }
  }
}

TEST_F(OnnxFile, AnyFlippedBitIsReadOrRefused) {
  const std::string whole = bytes_of(model());
  std::int64_t bytes_read = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const int bit : {0, 3, 6, 7}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      replace_file(model(), damaged);
      const Result<Graph> graph = read_onnx(model());
      if (!graph.ok()) continue;
      // What was accepted is whole: every byte of every tensor can be read.
      for (const Initializer& initializer : graph->initializers) {
        bytes_read += std::ranges::count(initializer.tensor.bytes, std::byte{0});
      }
      EXPECT_TRUE(validate(*graph).ok());
    }
  }
  EXPECT_GT(bytes_read, 0);
}

TEST_F(OnnxFile, AShortDataFileIsRefused) {
  fs::resize_file(data(), fs::file_size(data()) - 1);
  const Result<Graph> graph = read_onnx(model());
  ASSERT_FALSE(graph.ok());
  EXPECT_THAT(graph.error().message, HasSubstr("outside"));
  EXPECT_THAT(graph.error().message, HasSubstr("`w2`"));
}

TEST_F(OnnxFile, AHugeModelFileIsRefusedBeforeItIsParsed) {
  fs::resize_file(model(), std::uintmax_t{1} << 40);  // sparse
  const Result<Graph> graph = read_onnx(model());
  ASSERT_FALSE(graph.ok());
  EXPECT_THAT(graph.error().message, HasSubstr("external data"));
}

TEST(ReadOnnx, WhatIsNotAModelIsRefused) {
  TempDir dir;
  const fs::path file = dir.path() / "model.onnx";
  EXPECT_EQ(read_onnx(file).error().code, ErrorCode::kNotFound);
  for (const std::string& text : {std::string(), std::string("{\"not\": \"onnx\"}"),
                                  std::string(4096, '\xff'), std::string(4096, '\0')}) {
    ASSERT_TRUE(write_text_file(file, text).ok());
    EXPECT_FALSE(read_onnx(file).ok());
  }
}

TEST(ReadOnnx, DeepNestingIsRefusedNotRecursedInto) {
  TempDir dir;
  const fs::path file = dir.path() / "model.onnx";
  onnx::GraphProto graph;
  for (int depth = 0; depth < 200; ++depth) {
    onnx::GraphProto outer;
    onnx::AttributeProto& attribute = *outer.add_node()->add_attribute();
    attribute.mutable_g()->Swap(&graph);
    graph.Swap(&outer);
  }
  onnx::ModelProto model;
  model.mutable_graph()->Swap(&graph);
  ASSERT_TRUE(write_text_file(file, model.SerializeAsString()).ok());
  EXPECT_FALSE(read_onnx(file).ok());
}

}  // namespace
}  // namespace kv8::graph
