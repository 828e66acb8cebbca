#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "io/gguf.h"
#include "io/gguf_types.h"
#include "io/messages.h"

namespace kv8::io {
namespace {

constexpr std::uint32_t kMagic = 0x46554747;   // "GGUF"
constexpr std::uint64_t kMaxNameBytes = 1024;  // real ones stay below 100
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxAlignment = 1 << 20;

/// GGUF's metadata value types.
enum class ValueType : std::uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
constexpr std::uint32_t kNumValueTypes = 13;

/// Bytes of a value, or the least that one takes.
std::uint64_t min_value_bytes(ValueType type) {
  switch (type) {
    case ValueType::kU8:
    case ValueType::kI8:
    case ValueType::kBool:
      return 1;
    case ValueType::kU16:
    case ValueType::kI16:
      return 2;
    case ValueType::kU32:
    case ValueType::kI32:
    case ValueType::kF32:
      return 4;
    case ValueType::kString:
    case ValueType::kU64:
    case ValueType::kI64:
    case ValueType::kF64:
      return 8;
    case ValueType::kArray:
      return 12;
  }
  return 1;
}

/// Reads forward through a file; every read is checked against its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string source)
      : bytes_(bytes), source_(std::move(source)) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }
  const std::string& source() const { return source_; }

  Result<std::span<const std::byte>> take(std::uint64_t count, std::string_view what) {
    if (count > remaining()) {
      return bad_input(
          "{}: {} at byte {} claims {} bytes, but {} are left; the file is truncated "
          "or lies",
          source_, what, position_, count, remaining());
    }
    const auto taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }
  template <typename T>
  Result<T> number(std::string_view what) {
    T value;
    std::memcpy(&value, KV8_TRY(take(sizeof value, what)).data(), sizeof value);
    return value;
  }
  Result<std::string> string(std::string_view what) {
    const auto length = KV8_TRY(number<std::uint64_t>(what));
    const auto bytes = KV8_TRY(take(length, what));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  /// A short string without control characters.
  Result<std::string> name(std::string_view what) {
    std::string text = KV8_TRY(string(what));
    const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20; };
    if (text.empty() || text.size() > kMaxNameBytes || std::ranges::any_of(text, control)) {
      return bad_input("{}: {} of {} bytes is not a name: \"{}\"", source_, what, text.size(),
                       printable(text));
    }
    return text;
  }
  /// A count of things of at least `min_bytes` each.
  Result<std::uint64_t> count(std::string_view what, std::uint64_t min_bytes) {
    const auto value = KV8_TRY(number<std::uint64_t>(what));
    KV8_TRY(check_count(value, what, min_bytes));
    return value;
  }
  Status check_count(std::uint64_t value, std::string_view what, std::uint64_t min_bytes) const {
    if (value <= remaining() / min_bytes) return {};
    return bad_input(
        "{}: {} is {}, more than the {} bytes left can hold; the file is truncated or "
        "lies",
        source_, what, value, remaining());
  }

 private:
  std::span<const std::byte> bytes_;
  std::string source_;
  std::uint64_t position_ = 0;
};

template <typename T, typename As>
Result<As> widened(Cursor& cursor, std::string_view key) {
  return static_cast<As>(KV8_TRY(cursor.number<T>(key)));
}

Result<bool> read_bool(Cursor& cursor, std::string_view key) {
  const auto value = KV8_TRY(cursor.number<std::uint8_t>(key));
  if (value > 1) return bad_input("{}: {}: {} is no bool", cursor.source(), key, value);
  return value == 1;
}

Result<std::uint64_t> read_unsigned(Cursor& cursor, ValueType type, std::string_view key) {
  switch (type) {
    case ValueType::kU8:
      return widened<std::uint8_t, std::uint64_t>(cursor, key);
    case ValueType::kU16:
      return widened<std::uint16_t, std::uint64_t>(cursor, key);
    case ValueType::kU32:
      return widened<std::uint32_t, std::uint64_t>(cursor, key);
    default:
      return cursor.number<std::uint64_t>(key);
  }
}

Result<std::int64_t> read_signed(Cursor& cursor, ValueType type, std::string_view key) {
  switch (type) {
    case ValueType::kI8:
      return widened<std::int8_t, std::int64_t>(cursor, key);
    case ValueType::kI16:
      return widened<std::int16_t, std::int64_t>(cursor, key);
    case ValueType::kI32:
      return widened<std::int32_t, std::int64_t>(cursor, key);
    default:
      return cursor.number<std::int64_t>(key);
  }
}

Result<double> read_float(Cursor& cursor, ValueType type, std::string_view key) {
  if (type == ValueType::kF32) return widened<float, double>(cursor, key);
  return cursor.number<double>(key);
}

bool is_unsigned(ValueType type) {
  return type == ValueType::kU8 || type == ValueType::kU16 || type == ValueType::kU32 ||
         type == ValueType::kU64;
}
bool is_floating(ValueType type) { return type == ValueType::kF32 || type == ValueType::kF64; }

Result<ValueType> read_type(Cursor& cursor, std::string_view key) {
  const auto number = KV8_TRY(cursor.number<std::uint32_t>(key));
  if (number >= kNumValueTypes) {
    return bad_input("{}: {}: value type {} is unknown", cursor.source(), key, number);
  }
  return static_cast<ValueType>(number);
}

template <typename T, typename Read>
Result<GgufValue> read_elements(std::uint64_t count, const Read& read) {
  std::vector<T> values;
  values.reserve(count);
  for (std::uint64_t i = 0; i < count; ++i) values.push_back(KV8_TRY(read()));
  return GgufValue(std::move(values));
}

Result<std::int64_t> read_integer(Cursor& cursor, ValueType type, std::string_view key) {
  if (type == ValueType::kBool) return KV8_TRY(read_bool(cursor, key)) ? 1 : 0;
  if (!is_unsigned(type)) return read_signed(cursor, type, key);
  const std::uint64_t value = KV8_TRY(read_unsigned(cursor, type, key));
  if (value > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
    return bad_input("{}: {}: {} is too large", cursor.source(), key, value);
  }
  return static_cast<std::int64_t>(value);
}

Result<GgufValue> read_array(Cursor& cursor, std::string_view key) {
  const ValueType type = KV8_TRY(read_type(cursor, key));
  if (type == ValueType::kArray) {
    return unsupported("{}: {}: arrays of arrays are not supported", cursor.source(), key);
  }
  const std::uint64_t count =
      KV8_TRY(cursor.count(fmt::format("length of {}", key), min_value_bytes(type)));
  if (type == ValueType::kString) {
    return read_elements<std::string>(count, [&] { return cursor.string(key); });
  }
  if (is_floating(type)) {
    return read_elements<double>(count, [&] { return read_float(cursor, type, key); });
  }
  return read_elements<std::int64_t>(count, [&] { return read_integer(cursor, type, key); });
}

Result<GgufValue> read_value(Cursor& cursor, std::string_view key) {
  const ValueType type = KV8_TRY(read_type(cursor, key));
  if (type == ValueType::kArray) return read_array(cursor, key);
  if (type == ValueType::kString) return GgufValue(KV8_TRY(cursor.string(key)));
  if (type == ValueType::kBool) return GgufValue(KV8_TRY(read_bool(cursor, key)));
  if (is_floating(type)) return GgufValue(KV8_TRY(read_float(cursor, type, key)));
  if (is_unsigned(type)) return GgufValue(KV8_TRY(read_unsigned(cursor, type, key)));
  return GgufValue(KV8_TRY(read_signed(cursor, type, key)));
}

/// A tensor and where its bytes are, counted from the start of the data section.
struct TensorInfo {
  GgufTensor tensor;
  std::uint64_t offset = 0, bytes = 0;
};

Result<Shape> read_shape(Cursor& cursor, const std::string& where) {
  const auto rank = KV8_TRY(cursor.number<std::uint32_t>(where));
  if (rank > kMaxDimensions) {
    return bad_input("{}: {}: {} dimensions, more than {}", cursor.source(), where, rank,
                     kMaxDimensions);
  }
  Shape shape(rank);
  // GGUF's first dimension is the fastest.
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
    const auto size = KV8_TRY(cursor.number<std::uint64_t>(where));
    if (size == 0 || size > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
      return bad_input("{}: {}: a dimension is {}", cursor.source(), where, size);
    }
    *dim = static_cast<std::int64_t>(size);
  }
  return shape;
}

Result<TensorInfo> read_tensor_info(Cursor& cursor) {
  TensorInfo info;
  info.tensor.name = KV8_TRY(cursor.name("a tensor name"));
  const std::string where = "tensor " + info.tensor.name;
  info.tensor.shape = KV8_TRY(read_shape(cursor, where));
  info.tensor.type = KV8_TRY(cursor.number<std::uint32_t>(where));
  info.offset = KV8_TRY(cursor.number<std::uint64_t>(where));
  const GgmlType* type = find_ggml_type(info.tensor.type);
  if (type == nullptr) {
    return unsupported("{}: {}: {}", cursor.source(), where,
                       unsupported_ggml_type(info.tensor.type));
  }
  const auto elements = checked_num_elements(info.tensor.shape);
  if (!elements.ok()) return elements.error().within(cursor.source() + ": " + where);
  const Shape& shape = info.tensor.shape;
  const std::int64_t row = shape.empty() ? 1 : shape.back();
  if (row % static_cast<std::int64_t>(type->block_values) != 0) {
    return bad_input("{}: {}: rows of {} values are not whole {} blocks of {}", cursor.source(),
                     where, row, type->name, type->block_values);
  }
  const std::uint64_t blocks = static_cast<std::uint64_t>(*elements) / type->block_values;
  if (blocks > std::numeric_limits<std::uint64_t>::max() / type->block_bytes) {
    return bad_input("{}: {}: shape {} is too large", cursor.source(), where, shape_text(shape));
  }
  info.bytes = blocks * type->block_bytes;
  return info;
}

Result<std::uint64_t> find_alignment(const std::map<std::string, GgufValue, std::less<>>& metadata,
                                     std::string_view source) {
  constexpr std::uint64_t kDefault = 32;
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefault;
  const auto* value = std::get_if<std::uint64_t>(&found->second);
  if (value == nullptr || !std::has_single_bit(*value) || *value > kMaxAlignment) {
    return bad_input("{}: general.alignment is not a power of two up to {}", source, kMaxAlignment);
  }
  return *value;
}

/// Fills in the tensors' bytes. Padding may lie between them, overlaps may not.
Status place_tensors(std::vector<TensorInfo>& infos, std::span<const std::byte> data,
                     std::uint64_t alignment, std::string_view source) {
  for (TensorInfo& info : infos) {
    if (info.offset % alignment != 0) {
      return bad_input("{}: tensor {}: offset {} is not a multiple of the alignment {}", source,
                       info.tensor.name, info.offset, alignment);
    }
    if (info.offset > data.size() || info.bytes > data.size() - info.offset) {
      return bad_input(
          "{}: tensor {}: {} bytes at offset {} go beyond the {} bytes of data; the "
          "file is truncated or lies",
          source, info.tensor.name, info.bytes, info.offset, data.size());
    }
    info.tensor.bytes = data.subspan(info.offset, info.bytes);
  }
  std::vector<const TensorInfo*> sorted;
  for (const TensorInfo& info : infos) sorted.push_back(&info);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i - 1]->offset + sorted[i - 1]->bytes > sorted[i]->offset) {
      return bad_input("{}: tensors {} and {} overlap", source, sorted[i - 1]->tensor.name,
                       sorted[i]->tensor.name);
    }
  }
  return {};
}

Status check_version(Cursor& cursor) {
  if (KV8_TRY(cursor.number<std::uint32_t>("the magic number")) != kMagic) {
    return bad_input("{}: not a GGUF file", cursor.source());
  }
  const auto version = KV8_TRY(cursor.number<std::uint32_t>("the version"));
  if (version == 2 || version == 3) return {};
  if (version != 0 && (version & 0xffff) == 0) {
    return unsupported("{}: a big-endian GGUF file, which is not supported", cursor.source());
  }
  return unsupported("{}: GGUF version {} is not supported; supported are 2 and 3", cursor.source(),
                     version);
}

}  // namespace

Result<GgufFile> GgufFile::open(const std::filesystem::path& path) {
  GgufFile file;
  file.file_ = KV8_TRY(MappedFile::open(path));
  Cursor cursor(file.file_.bytes(), path.string());
  KV8_TRY(check_version(cursor));
  constexpr std::uint64_t kMinPairBytes = 8 + 4 + 1, kMinInfoBytes = 8 + 4 + 4 + 8;
  const auto num_tensors = KV8_TRY(cursor.count("the tensor count", kMinInfoBytes));
  const auto num_pairs = KV8_TRY(cursor.count("the metadata count", kMinPairBytes));
  for (std::uint64_t i = 0; i < num_pairs; ++i) {
    std::string key = KV8_TRY(cursor.name("a metadata key"));
    GgufValue value = KV8_TRY(read_value(cursor, key));
    const auto [entry, is_new] = file.metadata_.emplace(std::move(key), std::move(value));
    if (!is_new)
      return bad_input("{}: metadata key {} is there twice", path.string(), entry->first);
  }
  std::vector<TensorInfo> infos;
  std::set<std::string> names;
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    infos.push_back(KV8_TRY(read_tensor_info(cursor)));
    const std::string& name = infos.back().tensor.name;
    if (!names.insert(name).second) {
      return bad_input("{}: tensor {} is there twice", path.string(), name);
    }
  }
  const std::uint64_t alignment = KV8_TRY(find_alignment(file.metadata_, path.string()));
  const std::uint64_t padding = (alignment - cursor.position() % alignment) % alignment;
  if (!infos.empty()) KV8_TRY(cursor.take(padding, "padding before the data"));
  const auto data = file.file_.bytes().subspan(cursor.position());
  KV8_TRY(place_tensors(infos, data, alignment, path.string()));
  for (TensorInfo& info : infos) file.tensors_.push_back(std::move(info.tensor));
  return file;
}

}  // namespace kv8::io
