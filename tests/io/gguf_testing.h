// Builds GGUF files byte by byte, right and wrong ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "io/gguf.h"
#include "io/io_testing.h"

namespace kv8::io {

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
template <typename T>
std::string raw_list(const std::vector<T>& values) {
  std::string bytes;
  for (const T& value : values) bytes += raw(value);
  return bytes;
}
inline std::string raw_string(std::string_view text) {
  return raw(std::uint64_t{text.size()}) + std::string(text);
}

class GgufBuilder {
 public:
  // Numbers of the format's value types.
  static constexpr std::uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kString = 8,
                                 kArray = 9, kU64 = 10;

  /// `payload` is what follows the type. A key that is there is replaced.
  GgufBuilder& set(const std::string& key, std::uint32_t type, std::string payload) {
    erase(key);
    pairs_.push_back({key, raw(type) + payload});
    return *this;
  }
  GgufBuilder& u32(const std::string& key, std::uint32_t v) { return set(key, kU32, raw(v)); }
  GgufBuilder& f32(const std::string& key, float v) { return set(key, kF32, raw(v)); }
  GgufBuilder& flag(const std::string& key, bool v) { return set(key, kBool, raw(v)); }
  GgufBuilder& text(const std::string& key, std::string_view v) {
    return set(key, kString, raw_string(v));
  }
  GgufBuilder& array(const std::string& key, std::uint32_t type, std::uint64_t count,
                     const std::string& elements) {
    return set(key, kArray, raw(type) + raw(count) + elements);
  }
  GgufBuilder& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string elements;
    for (const std::string& value : values) elements += raw_string(value);
    return array(key, kString, values.size(), elements);
  }
  GgufBuilder& i32s(const std::string& key, const std::vector<std::int32_t>& values) {
    return array(key, kI32, values.size(), raw_list(values));
  }
  GgufBuilder& f32s(const std::string& key, const std::vector<float>& values) {
    return array(key, kF32, values.size(), raw_list(values));
  }
  GgufBuilder& erase(const std::string& key) {
    std::erase_if(pairs_, [&](const auto& pair) { return pair.first == key; });
    return *this;
  }

  struct Tensor {
    std::string name;
    std::uint32_t type;
    Shape shape;  ///< row-major
    std::string bytes;
    std::int64_t offset = -1;  ///< -1: where it falls
  };
  /// A tensor whose name is there is replaced.
  GgufBuilder& tensor(Tensor value) {
    erase_tensor(value.name);
    tensors_.push_back(std::move(value));
    return *this;
  }
  GgufBuilder& floats(const std::string& name, Shape shape, const std::vector<float>& values) {
    return tensor({name, 0, std::move(shape), raw_list(values)});
  }
  GgufBuilder& erase_tensor(const std::string& name) {
    std::erase_if(tensors_, [&](const Tensor& entry) { return entry.name == name; });
    return *this;
  }

  std::uint32_t version = 3;
  std::uint64_t alignment = 32;
  std::int64_t extra_tensors = 0, extra_pairs = 0;  ///< lies in the counts

  std::string build() const {
    std::string out =
        "GGUF" + raw(version) +
        raw(static_cast<std::uint64_t>(std::int64_t(tensors_.size()) + extra_tensors)) +
        raw(static_cast<std::uint64_t>(std::int64_t(pairs_.size()) + extra_pairs));
    for (const auto& [key, value] : pairs_) out += raw_string(key) + value;
    std::string data;
    for (const Tensor& tensor : tensors_) {
      data.resize((data.size() + alignment - 1) / alignment * alignment);
      const std::uint64_t at =
          tensor.offset >= 0 ? static_cast<std::uint64_t>(tensor.offset) : data.size();
      out += raw_string(tensor.name) + raw(static_cast<std::uint32_t>(tensor.shape.size()));
      for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) out += raw(*dim);
      out += raw(tensor.type) + raw(at);
      data += tensor.bytes;
    }
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data;
  }

 private:
  std::vector<std::pair<std::string, std::string>> pairs_;
  std::vector<Tensor> tensors_;
};

}  // namespace kv8::io
