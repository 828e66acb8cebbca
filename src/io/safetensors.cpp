#include "io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "base/json.h"
#include "io/messages.h"
#include "io/strict_json.h"

namespace kv8::io {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

constexpr std::uint64_t kLengthBytes = 8;
/// The format's own limit on the header.
constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr int kMaxDimensions = 16;
constexpr std::string_view kMetadataKey = "__metadata__";

/// Where a tensor's bytes are, counted from the end of the header.
struct Range {
  std::uint64_t begin = 0, end = 0;
  std::string name;
};

Result<std::string_view> header_text(std::span<const std::byte> bytes, std::string_view path) {
  if (bytes.size() < kLengthBytes) {
    return bad_input("{}: {} bytes, too short to be a safetensors file", path, bytes.size());
  }
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMaxHeaderBytes) {
    return bad_input("{}: its header claims {} bytes, more than the {} that safetensors allows",
                     path, length, kMaxHeaderBytes);
  }
  if (length > bytes.size() - kLengthBytes) {
    return bad_input("{}: its header claims {} bytes, but only {} follow; the file is truncated",
                     path, length, bytes.size() - kLengthBytes);
  }
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
}

Result<std::map<std::string, std::string>> parse_metadata(const MapJson& entry,
                                                          std::string_view path) {
  if (!entry.is_object()) return bad_input("{}: {} is not an object", path, kMetadataKey);
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return bad_input("{}: {} entry \"{}\" is not a string", path, kMetadataKey, printable(key));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

/// A list of whole numbers >= 0 under `key`.
Result<std::vector<std::int64_t>> parse_counts(const MapJson& entry, const char* key,
                                               std::string_view where) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) {
    return bad_input("{}: `{}` is missing or not a list", where, key);
  }
  if (found->size() > kMaxDimensions) {
    return bad_input("{}: `{}` has {} entries, more than {}", where, key, found->size(),
                     kMaxDimensions);
  }
  std::vector<std::int64_t> counts;
  for (const MapJson& value : *found) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) {
      return bad_input("{}: `{}` holds {}, expected whole numbers from 0", where, key,
                       value.dump(-1, ' ', true, MapJson::error_handler_t::replace));
    }
    counts.push_back(value.get<std::int64_t>());
  }
  return counts;
}

/// The view of one header entry; `data` is what follows the header.
Result<TensorView> parse_entry(const MapJson& entry, std::span<const std::byte> data,
                               std::string_view where, Range& range) {
  if (!entry.is_object()) return bad_input("{}: its header entry is not an object", where);
  const auto dtype_field = entry.find("dtype");
  if (dtype_field == entry.end() || !dtype_field->is_string()) {
    return bad_input("{}: `dtype` is missing or not a string", where);
  }
  TensorView view;
  const auto dtype = dtype_from_name(dtype_field->get_ref<const std::string&>());
  if (!dtype.ok()) return dtype.error().within(where);
  view.dtype = *dtype;
  view.shape = KV8_TRY(parse_counts(entry, "shape", where));
  const auto offsets = KV8_TRY(parse_counts(entry, "data_offsets", where));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return bad_input("{}: `data_offsets` is not a pair [begin, end] with begin <= end", where);
  }
  range.begin = static_cast<std::uint64_t>(offsets[0]);
  range.end = static_cast<std::uint64_t>(offsets[1]);
  if (range.end > data.size()) {
    return bad_input("{}: its data ends at byte {} of {}; the file is truncated or lies", where,
                     range.end, data.size());
  }
  const auto elements = checked_num_elements(view.shape);
  if (!elements.ok()) return elements.error().within(where);
  // The range lies inside the file, so the division keeps the product from overflowing.
  const std::uint64_t bytes = range.end - range.begin, size = dtype_size(view.dtype);
  if (bytes % size != 0 || bytes / size != static_cast<std::uint64_t>(*elements)) {
    return bad_input("{}: {} of shape {} needs {} elements of {} bytes, but `data_offsets` span {}",
                     where, dtype_name(view.dtype), shape_text(view.shape), *elements, size, bytes);
  }
  view.bytes = data.subspan(range.begin, bytes);
  return view;
}

/// The format wants the data section filled exactly, each byte by one tensor.
Status check_layout(std::vector<Range>& ranges, std::uint64_t data_bytes, std::string_view path) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  std::uint64_t expected = 0;
  std::string_view previous = "the header";
  for (const Range& range : ranges) {
    if (range.begin < expected) {
      return bad_input("{}: tensors {} and {} overlap at byte {} of the data", path, previous,
                       range.name, range.begin);
    }
    if (range.begin > expected) {
      return bad_input("{}: {} bytes between {} and tensor {} belong to no tensor", path,
                       range.begin - expected, previous, range.name);
    }
    expected = range.end;
    previous = range.name;
  }
  if (expected != data_bytes) {
    return bad_input("{}: {} bytes after {} belong to no tensor", path, data_bytes - expected,
                     previous);
  }
  return {};
}

/// Views promise elements at aligned addresses. Files that break this are rare (an odd number of
/// bytes before a wider type, or an unpadded header); their tensors are copied.
void align(TensorView& view, const MappedFile& file) {
  if (view.bytes.empty()) {
    view.bytes = {};
    return;
  }
  if (reinterpret_cast<std::uintptr_t>(view.bytes.data()) % dtype_size(view.dtype) == 0) {
    view.owner = std::make_shared<MappedFile>(file);
    return;
  }
  auto copy = std::make_shared<Buffer>(view.bytes.size());
  std::memcpy(copy->data(), view.bytes.data(), view.bytes.size());
  view.bytes = {copy->data(), view.bytes.size()};
  view.owner = std::move(copy);
}

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// The header's JSON, padded, and the size of the data in `data_bytes`.
Result<std::string> make_header(const std::vector<TensorSpec>& tensors,
                                const std::map<std::string, std::string>& metadata,
                                const std::string& path, std::uint64_t& data_bytes) {
  std::set<std::string_view> names;
  std::string header = "{";
  const auto add = [&](const std::string& name, const std::string& value) {
    header += fmt::format("{}{}:{}", header.size() > 1 ? "," : "", quoted(name), value);
  };
  if (!metadata.empty()) add(std::string(kMetadataKey), Json(metadata).dump());
  std::uint64_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    KV8_CHECK(tensor.name != kMetadataKey && names.insert(tensor.name).second,
              "{}: tensor name {} is not unique", path, tensor.name);
    const auto elements = KV8_TRY(checked_num_elements(tensor.shape));
    const std::uint64_t end =
        offset + static_cast<std::uint64_t>(elements) * dtype_size(tensor.dtype);
    add(tensor.name, fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                                 dtype_name(tensor.dtype), Json(tensor.shape).dump(), offset, end));
    offset = end;
  }
  header += "}";
  constexpr std::uint64_t kAlignment = 64;
  while ((kLengthBytes + header.size()) % kAlignment != 0) header += ' ';
  if (header.size() > kMaxHeaderBytes) {
    return capacity_error("{}: {} tensors need a header of {} bytes, more than safetensors allows",
                          path, tensors.size(), header.size());
  }
  data_bytes = offset;
  return header;
}

/// Splits [0, tensors.size()) into runs of at most `max_bytes`, of one tensor at least.
std::vector<std::pair<std::size_t, std::size_t>> plan_shards(
    const std::vector<NamedTensor>& tensors, std::uint64_t max_bytes) {
  std::vector<std::pair<std::size_t, std::size_t>> shards;
  std::size_t begin = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t size = tensors[i].tensor.bytes.size();
    if (i > begin && (size > max_bytes || bytes > max_bytes - size)) {
      shards.emplace_back(begin, i);
      begin = i;
      bytes = 0;
    }
    bytes += size;
  }
  shards.emplace_back(begin, tensors.size());
  return shards;
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  SafetensorsFile file;
  file.file_ = KV8_TRY(MappedFile::open(path));
  const std::string name = path.string();
  const std::string_view text = KV8_TRY(header_text(file.file_.bytes(), name));
  const MapJson header = KV8_TRY(parse_strict_json(text, name + ": its header", 4));
  const auto data = file.file_.bytes().subspan(kLengthBytes + text.size());
  std::vector<Range> ranges;
  for (const auto& [key, entry] : header.items()) {
    if (key == kMetadataKey) {
      file.metadata_ = KV8_TRY(parse_metadata(entry, name));
      continue;
    }
    Range range{0, 0, printable(key)};
    TensorView view = KV8_TRY(parse_entry(entry, data, name + ": tensor " + printable(key), range));
    ranges.push_back(std::move(range));
    file.tensors_.emplace(key, std::move(view));
  }
  KV8_TRY(check_layout(ranges, data.size(), name));
  for (auto& [key, view] : file.tensors_) align(view, file.file_);
  return file;
}

Result<TensorView> SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return not_found("{}: it has no tensor {}", path().string(), name);
  }
  return found->second;
}

Result<SafetensorsWriter> SafetensorsWriter::create(
    const std::filesystem::path& path, const std::vector<TensorSpec>& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::uint64_t data_bytes = 0;
  const std::string header = KV8_TRY(make_header(tensors, metadata, path.string(), data_bytes));
  SafetensorsWriter writer(KV8_TRY(AtomicFile::create(path)));
  const std::uint64_t length = header.size();
  KV8_TRY(writer.file_.write(std::as_bytes(std::span(&length, 1))));
  KV8_TRY(writer.file_.write(header));
  writer.expected_size_ = writer.file_.size() + data_bytes;
  return writer;
}

Status SafetensorsWriter::write(std::span<const std::byte> data) {
  KV8_CHECK(data.size() <= expected_size_ - file_.size(), "{} bytes more than the tensors have",
            data.size());
  return file_.write(data);
}

Status SafetensorsWriter::commit() {
  KV8_CHECK(file_.size() == expected_size_, "{} bytes of tensors are not written",
            expected_size_ - file_.size());
  return file_.commit();
}

Status write_safetensors(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer = KV8_TRY(SafetensorsWriter::create(path, specs, metadata));
  for (const auto& [name, tensor] : tensors) {
    KV8_CHECK(static_cast<std::size_t>(tensor.num_elements()) * dtype_size(tensor.dtype) ==
                  tensor.bytes.size(),
              "tensor {} of shape {} has {} bytes", name, shape_text(tensor.shape),
              tensor.bytes.size());
    KV8_TRY(writer.write(tensor.bytes));
  }
  return writer.commit();
}

Status write_sharded_safetensors(const std::filesystem::path& dir,
                                 const std::vector<NamedTensor>& tensors,
                                 std::uint64_t max_shard_bytes) {
  const std::map<std::string, std::string> metadata = {{"format", "pt"}};
  const auto shards = plan_shards(tensors, max_shard_bytes);
  if (shards.size() == 1) {
    return write_safetensors(dir / "model.safetensors", tensors, metadata);
  }
  std::uint64_t total = 0;
  std::string weight_map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto first = tensors.begin() + static_cast<std::ptrdiff_t>(shards[i].first);
    const auto last = tensors.begin() + static_cast<std::ptrdiff_t>(shards[i].second);
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    KV8_TRY(write_safetensors(dir / name, {first, last}, metadata));
    for (auto entry = first; entry != last; ++entry) {
      total += entry->tensor.bytes.size();
      weight_map += fmt::format("{}\n    {}: \"{}\"", weight_map.empty() ? "" : ",",
                                quoted(entry->name), name);
    }
  }
  return write_text_file(
      dir / "model.safetensors.index.json",
      fmt::format("{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{{}\n  }}\n}}\n",
                  total, weight_map));
}

}  // namespace kv8::io
