#include <bit>
#include <charconv>
#include <map>
#include <memory>
#include <optional>

#include "base/file.h"
#include "graph/onnx.h"
#include "onnx.pb.h"

namespace kv8::graph {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "ONNX's raw data is little-endian");

/// A parsed message takes up to some fifty times its bytes, so this bounds memory. A decoder of a
/// hundred layers has less than 1 MiB.
constexpr std::size_t kMaxModelBytes = std::size_t{32} << 20;

/// Data files next to the model, each mapped once.
class ExternalData {
 public:
  explicit ExternalData(fs::path dir) : dir_(std::move(dir)) {}

  /// The bytes that a tensor's external_data entries name, and what keeps them alive.
  Result<TensorView> locate(const onnx::TensorProto& tensor, std::size_t expected_bytes) {
    const Where where = KV8_TRY(entries_of(tensor));
    const auto& file = *KV8_TRY(open(where.location));
    const std::span<const std::byte> all = file.bytes();
    const std::uint64_t length = where.length.value_or(expected_bytes);
    if (length != expected_bytes) {
      return bad_input("external data has length {}, its type and shape need {} bytes", length,
                       expected_bytes);
    }
    if (where.offset > all.size() || length > all.size() - where.offset) {
      return bad_input("external data at offset {}, length {} lies outside {} ({} bytes)",
                       where.offset, length, file.path().string(), all.size());
    }
    TensorView view;
    view.bytes = all.subspan(where.offset, length);
    view.owner = std::make_shared<MappedFile>(file);
    return view;
  }

 private:
  struct Where {
    std::string location;
    std::uint64_t offset = 0;
    std::optional<std::uint64_t> length;
  };

  static Result<std::uint64_t> number(const std::string& key, const std::string& text) {
    std::uint64_t value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data(), end, value);
    if (failure != std::errc() || stop != end) {
      return bad_input("external data has {} `{}`, expected a whole number", key, text);
    }
    return value;
  }

  static Result<Where> entries_of(const onnx::TensorProto& tensor) {
    Where where;
    for (const onnx::StringStringEntryProto& entry : tensor.external_data()) {
      if (entry.key() == "location") where.location = entry.value();
      if (entry.key() == "offset") where.offset = KV8_TRY(number("offset", entry.value()));
      if (entry.key() == "length") where.length = KV8_TRY(number("length", entry.value()));
    }
    return where;
  }

  /// Only plain names: nothing outside the model's folder is ever opened.
  Result<const MappedFile*> open(const std::string& location) {
    const fs::path name(location);
    if (location.empty() || location.find('\0') != std::string::npos || name.has_root_path() ||
        name != name.filename() || location == "." || location == "..") {
      return bad_input(
          "external data has location `{}`, expected the plain name of a file beside the model",
          location);
    }
    const auto found = files_.find(location);
    if (found != files_.end()) return &found->second;
    MappedFile file = KV8_TRY(MappedFile::open(dir_ / name));
    return &files_.emplace(location, std::move(file)).first->second;
  }

  fs::path dir_;
  std::map<std::string, MappedFile> files_;
};

Result<TensorView> inline_data(const onnx::TensorProto& tensor, DType dtype, const Shape& shape) {
  const auto copy = [&](const void* data, std::size_t bytes) {
    return tensor_from_bytes(dtype, {static_cast<const std::byte*>(data), bytes}, shape);
  };
  if (tensor.has_raw_data()) return copy(tensor.raw_data().data(), tensor.raw_data().size());
  if (dtype == DType::kF32 && tensor.float_data_size() > 0) {
    return copy(tensor.float_data().data(), tensor.float_data_size() * sizeof(float));
  }
  if (dtype == DType::kI64 && tensor.int64_data_size() > 0) {
    return copy(tensor.int64_data().data(), tensor.int64_data_size() * sizeof(std::int64_t));
  }
  return bad_input("has neither raw_data nor external data");
}

Result<TensorView> read_tensor(const onnx::TensorProto& tensor, ExternalData& external) {
  const DType dtype = KV8_TRY(dtype_from_onnx(tensor.data_type()));
  if (tensor.has_segment()) return unsupported("is stored in segments, kv8 does not read that");
  const Shape shape(tensor.dims().begin(), tensor.dims().end());
  const auto elements = static_cast<std::uint64_t>(KV8_TRY(checked_num_elements(shape)));
  if (elements > SIZE_MAX / dtype_size(dtype)) {
    return bad_input("shape {} is too large", shape_text(shape));
  }
  const std::size_t expected = elements * dtype_size(dtype);
  if (tensor.data_location() != onnx::TensorProto::EXTERNAL) {
    TensorView view = KV8_TRY(inline_data(tensor, dtype, shape));
    if (view.bytes.size() == expected) return view;
    return bad_input("{} {} needs {} bytes, found {}", dtype_name(dtype), shape_text(shape),
                     expected, view.bytes.size());
  }
  TensorView view = KV8_TRY(external.locate(tensor, expected));
  if (reinterpret_cast<std::uintptr_t>(view.bytes.data()) % dtype_size(dtype) != 0) {
    return bad_input("external data's offset is not a multiple of the {} bytes of an element",
                     dtype_size(dtype));
  }
  view.dtype = dtype;
  view.shape = shape;
  return view;
}

Result<ValueInfo> read_value(const onnx::ValueInfoProto& in) {
  if (!in.type().has_tensor_type() || !in.type().tensor_type().has_shape()) {
    return unsupported("`{}`: is not a tensor with a shape", in.name());
  }
  ValueInfo value;
  value.name = in.name();
  const Result<DType> dtype = dtype_from_onnx(in.type().tensor_type().elem_type());
  if (!dtype.ok()) return dtype.error().within("`" + in.name() + "`");
  value.dtype = *dtype;
  for (const onnx::TensorShapeProto::Dimension& dim : in.type().tensor_type().shape().dim()) {
    if (dim.has_dim_value()) {
      if (dim.dim_value() < 0) {
        return bad_input("`{}`: has the dimension {}", in.name(), dim.dim_value());
      }
      value.shape.emplace_back(std::int64_t{dim.dim_value()});
    } else {
      value.shape.emplace_back(dim.dim_param());
    }
  }
  return value;
}

Result<Attribute> read_attribute(const onnx::AttributeProto& in) {
  switch (in.type()) {
    case onnx::AttributeProto::INT:
      return Attribute(std::int64_t{in.i()});
    case onnx::AttributeProto::FLOAT:
      return Attribute(in.f());
    case onnx::AttributeProto::STRING:
      return Attribute(in.s());
    case onnx::AttributeProto::INTS:
      return Attribute(std::vector<std::int64_t>(in.ints().begin(), in.ints().end()));
    case onnx::AttributeProto::FLOATS:
      return Attribute(std::vector<float>(in.floats().begin(), in.floats().end()));
    default:
      return unsupported(
          "attribute `{}` has a type other than int, float, string and lists of them", in.name());
  }
}

Result<Node> read_node(const onnx::NodeProto& in) {
  if (!in.domain().empty() && in.domain() != "ai.onnx") {
    return unsupported("operator {} of domain `{}`, kv8 reads standard operators only",
                       in.op_type(), in.domain());
  }
  Node node;
  node.op_type = in.op_type();
  node.name = in.name();
  node.inputs.assign(in.input().begin(), in.input().end());
  node.outputs.assign(in.output().begin(), in.output().end());
  for (const onnx::AttributeProto& attribute : in.attribute()) {
    if (!attribute.ref_attr_name().empty()) {
      return unsupported("attribute `{}` refers to a function's, which kv8 does not read",
                         attribute.name());
    }
    Attribute value = KV8_TRY(read_attribute(attribute));
    if (!node.attributes.emplace(attribute.name(), std::move(value)).second) {
      return bad_input("has two attributes `{}`", attribute.name());
    }
  }
  return node;
}

Status check_model(const onnx::ModelProto& model) {
  if (!model.has_graph()) return bad_input("not an ONNX model: it has no graph");
  bool found = false;
  for (const onnx::OperatorSetIdProto& opset : model.opset_import()) {
    if (!opset.domain().empty() && opset.domain() != "ai.onnx") continue;  // used? read_node tells
    if (opset.version() != kOnnxOpset) {
      return unsupported("opset {}, kv8 reads opset {}", opset.version(), kOnnxOpset);
    }
    found = true;
  }
  if (!found) return bad_input("names no opset of the standard operators");
  if (model.functions_size() > 0) return unsupported("has functions, which kv8 does not read");
  if (model.graph().sparse_initializer_size() > 0) {
    return unsupported("has sparse initializers, which kv8 does not read");
  }
  return {};
}

Result<Graph> read_graph(const onnx::ModelProto& model, ExternalData external) {
  KV8_TRY(check_model(model));
  const onnx::GraphProto& in = model.graph();
  Graph graph;
  graph.name = in.name();
  for (const auto& entry : model.metadata_props()) graph.metadata[entry.key()] = entry.value();
  for (const auto& input : in.input()) graph.inputs.push_back(KV8_TRY(read_value(input)));
  for (const auto& output : in.output()) graph.outputs.push_back(KV8_TRY(read_value(output)));
  for (const onnx::TensorProto& tensor : in.initializer()) {
    Result<TensorView> view = read_tensor(tensor, external);
    if (!view.ok()) return view.error().within(fmt::format("initializer `{}`", tensor.name()));
    graph.initializers.push_back({tensor.name(), std::move(view).value()});
  }
  for (const onnx::NodeProto& proto : in.node()) {
    Result<Node> node = read_node(proto);
    if (!node.ok()) return node.error().within(fmt::format("node `{}`", proto.name()));
    graph.nodes.push_back(std::move(node).value());
  }
  KV8_TRY(validate(graph));
  return graph;
}

}  // namespace

Result<Graph> read_onnx(const fs::path& model_file) {
  const MappedFile file = KV8_TRY(MappedFile::open(model_file));
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() > kMaxModelBytes) {
    return bad_input(
        "{}: {} bytes, more than the {} that kv8 reads; store the weights as external data",
        model_file.string(), bytes.size(), kMaxModelBytes);
  }
  onnx::ModelProto model;
  if (bytes.empty() || !model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return bad_input("{}: not an ONNX model, or cut short", model_file.string());
  }
  Result<Graph> graph = read_graph(model, ExternalData(model_file.parent_path()));
  if (!graph.ok()) return graph.error().within(model_file.string());
  return graph;
}

}  // namespace kv8::graph
