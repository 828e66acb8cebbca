#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <bit>

#include "base/file.h"
#include "graph/onnx.h"
#include "onnx.pb.h"

namespace kv8::graph {
namespace {

static_assert(std::endian::native == std::endian::little, "ONNX's raw data is little-endian");

constexpr std::string_view kDataFile = "model.onnx.data";
constexpr std::int64_t kIrVersion = 12;  // the one that came with opset 24
constexpr std::size_t kMaxInlineBytes = 1024;
constexpr std::uint64_t kDataAlignment = 64;
constexpr std::size_t kChunkBytes = std::size_t{16} << 20;

struct AttributeWriter {
  onnx::AttributeProto& out;
  void operator()(std::int64_t value) const {
    out.set_type(onnx::AttributeProto::INT);
    out.set_i(value);
  }
  void operator()(float value) const {
    out.set_type(onnx::AttributeProto::FLOAT);
    out.set_f(value);
  }
  void operator()(const std::string& value) const {
    out.set_type(onnx::AttributeProto::STRING);
    out.set_s(value);
  }
  void operator()(const std::vector<std::int64_t>& values) const {
    out.set_type(onnx::AttributeProto::INTS);
    out.mutable_ints()->Add(values.begin(), values.end());
  }
  void operator()(const std::vector<float>& values) const {
    out.set_type(onnx::AttributeProto::FLOATS);
    out.mutable_floats()->Add(values.begin(), values.end());
  }
};

void write_node(const Node& node, onnx::NodeProto& out) {
  for (const std::string& input : node.inputs) out.add_input(input);
  for (const std::string& output : node.outputs) out.add_output(output);
  out.set_name(node.name);
  out.set_op_type(node.op_type);
  for (const auto& [name, value] : node.attributes) {
    onnx::AttributeProto& attribute = *out.add_attribute();
    attribute.set_name(name);
    std::visit(AttributeWriter{attribute}, value);
  }
}

void write_value(const ValueInfo& value, onnx::ValueInfoProto& out) {
  out.set_name(value.name);
  onnx::TypeProto::Tensor& type = *out.mutable_type()->mutable_tensor_type();
  type.set_elem_type(static_cast<std::int32_t>(onnx_dtype(value.dtype)));
  type.mutable_shape();
  for (const Dim& dim : value.shape) {
    onnx::TensorShapeProto::Dimension& out_dim = *type.mutable_shape()->add_dim();
    if (const auto* symbol = std::get_if<std::string>(&dim)) {
      out_dim.set_dim_param(*symbol);
    } else {
      out_dim.set_dim_value(std::get<std::int64_t>(dim));
    }
  }
}

/// The data file, with progress in MiB over all tensors.
class DataWriter {
 public:
  DataWriter(AtomicFile file, ProgressSink* progress)
      : file_(std::move(file)), progress_(progress) {}

  /// Appends a tensor's bytes, aligned; gives where they begin.
  Result<std::uint64_t> append(std::span<const std::byte> bytes) {
    KV8_TRY(file_.pad_to(kDataAlignment));
    const std::uint64_t offset = file_.size();
    while (!bytes.empty()) {
      if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted while writing weights"};
      const auto chunk = bytes.first(std::min(bytes.size(), kChunkBytes));
      KV8_TRY(file_.write(chunk));
      bytes = bytes.subspan(chunk.size());
      if (progress_ != nullptr) progress_->advance(static_cast<std::int64_t>(file_.size() >> 20));
    }
    return offset;
  }
  Status commit() { return file_.commit(); }

 private:
  AtomicFile file_;
  ProgressSink* progress_;
};

void add_external(onnx::TensorProto& out, const char* key, std::string value) {
  onnx::StringStringEntryProto& entry = *out.add_external_data();
  entry.set_key(key);
  entry.set_value(std::move(value));
}

Status write_initializer(const Initializer& initializer, DataWriter& data, onnx::TensorProto& out) {
  const std::span<const std::byte> bytes = initializer.tensor.bytes;
  for (const std::int64_t dim : initializer.tensor.shape) out.add_dims(dim);
  out.set_data_type(static_cast<std::int32_t>(onnx_dtype(initializer.tensor.dtype)));
  out.set_name(initializer.name);
  if (bytes.size() <= kMaxInlineBytes) {
    out.set_raw_data(bytes.data(), bytes.size());
    return {};
  }
  const std::uint64_t offset = KV8_TRY(data.append(bytes));
  add_external(out, "location", std::string(kDataFile));
  add_external(out, "offset", std::to_string(offset));
  add_external(out, "length", std::to_string(bytes.size()));
  out.set_data_location(onnx::TensorProto::EXTERNAL);
  return {};
}

std::string serialize(const onnx::ModelProto& model) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    KV8_CHECK(model.SerializeToCodedStream(&coded), "a model cannot be serialized");
  }
  return bytes;
}

std::int64_t total_mib(const Graph& graph) {
  std::uint64_t bytes = 0;
  for (const Initializer& initializer : graph.initializers)
    bytes += initializer.tensor.bytes.size();
  return static_cast<std::int64_t>(bytes >> 20);
}

}  // namespace

Status write_onnx(const Graph& graph, const std::filesystem::path& dir, const Reporter& reporter) {
  KV8_TRY(validate(graph));
  onnx::ModelProto model;
  model.set_ir_version(kIrVersion);
  model.set_producer_name("kv8");
  model.add_opset_import()->set_version(kOnnxOpset);
  for (const auto& [key, value] : graph.metadata) {
    onnx::StringStringEntryProto& entry = *model.add_metadata_props();
    entry.set_key(key);
    entry.set_value(value);
  }

  onnx::GraphProto& out = *model.mutable_graph();
  out.set_name(graph.name);
  for (const ValueInfo& input : graph.inputs) write_value(input, *out.add_input());
  for (const ValueInfo& output : graph.outputs) write_value(output, *out.add_output());
  for (const Node& node : graph.nodes) write_node(node, *out.add_node());

  if (reporter.progress != nullptr) reporter.progress->begin("weights", total_mib(graph), "MiB");
  DataWriter data(KV8_TRY(AtomicFile::create(dir / kDataFile)), reporter.progress);
  for (const Initializer& initializer : graph.initializers) {
    KV8_TRY(write_initializer(initializer, data, *out.add_initializer()));
  }
  if (reporter.progress != nullptr) reporter.progress->end();

  AtomicFile file = KV8_TRY(AtomicFile::create(dir / "model.onnx"));
  KV8_TRY(file.write(serialize(model)));
  KV8_TRY(data.commit());
  return file.commit();
}

}  // namespace kv8::graph
