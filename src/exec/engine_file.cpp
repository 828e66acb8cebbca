// llm.engine: a header of 256 bytes, the plan as JSON, the weights. docs/engine-format.md.
#include <algorithm>
#include <array>
#include <cstring>

#include "base/file.h"
#include "base/hash.h"
#include "exec/backends.h"
#include "exec/engine.h"
#include "exec/plan_json.h"

namespace kv8::exec {
namespace {

constexpr std::string_view kMagic = "KV8ENGIN";
constexpr std::size_t kHeaderBytes = 256;
constexpr std::size_t kBackendBytes = 16, kArchitectureBytes = 32, kHashBytes = 64;
constexpr std::uint64_t kMaxPlanBytes = std::uint64_t{1} << 28;

// Offsets of the header's fields. Numbers are little-endian; text is padded with zeros.
enum HeaderOffset : std::size_t {
  kMagicAt = 0,
  kVersionAt = 8,
  kHeaderBytesAt = 12,
  kBackendAt = 16,
  kArchitectureAt = 32,
  kPlanBytesAt = 64,
  kWeightsOffsetAt = 72,
  kWeightsBytesAt = 80,
  kPlanHashAt = 128,
  kWeightsHashAt = 192,
};

struct Header {
  std::uint32_t version = kEngineFormatVersion;
  std::string backend, architecture;
  std::uint64_t plan_bytes = 0, weights_offset = 0, weights_bytes = 0;
  std::string plan_hash, weights_hash;
};

std::uint64_t weights_offset_for(std::uint64_t plan_bytes) {
  return (kHeaderBytes + plan_bytes + kWeightAlignment - 1) / kWeightAlignment * kWeightAlignment;
}

using HeaderBytes = std::array<std::byte, kHeaderBytes>;

void put_number(HeaderBytes& bytes, std::size_t at, std::uint64_t value, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

std::uint64_t get_number(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;)
    value = value << 8 | std::to_integer<std::uint64_t>(bytes[at + i]);
  return value;
}

void put_text(HeaderBytes& bytes, std::size_t at, std::string_view text, std::size_t size) {
  KV8_CHECK(text.size() <= size, "`{}` is longer than {} bytes", text, size);
  std::memcpy(bytes.data() + at, text.data(), text.size());
}

std::string get_text(std::span<const std::byte> bytes, std::size_t at, std::size_t size) {
  const char* start = reinterpret_cast<const char*>(bytes.data() + at);
  std::string text(start, std::find(start, start + size, '\0'));
  std::ranges::replace_if(
      text, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
  return text;
}

HeaderBytes encode(const Header& header) {
  HeaderBytes bytes{};
  put_text(bytes, kMagicAt, kMagic, kMagic.size());
  put_number(bytes, kVersionAt, header.version, 4);
  put_number(bytes, kHeaderBytesAt, kHeaderBytes, 4);
  put_text(bytes, kBackendAt, header.backend, kBackendBytes);
  put_text(bytes, kArchitectureAt, header.architecture, kArchitectureBytes);
  put_number(bytes, kPlanBytesAt, header.plan_bytes, 8);
  put_number(bytes, kWeightsOffsetAt, header.weights_offset, 8);
  put_number(bytes, kWeightsBytesAt, header.weights_bytes, 8);
  put_text(bytes, kPlanHashAt, header.plan_hash, kHashBytes);
  put_text(bytes, kWeightsHashAt, header.weights_hash, kHashBytes);
  return bytes;
}

/// Reads and checks everything in the header that can be checked without the sections' contents.
Result<Header> decode(std::span<const std::byte> file, std::string_view source) {
  if (file.size() < kHeaderBytes || get_text(file, kMagicAt, kMagic.size()) != kMagic) {
    return bad_input("{}: not an engine of kv8", source);
  }
  Header header;
  header.version = static_cast<std::uint32_t>(get_number(file, kVersionAt, 4));
  if (header.version != kEngineFormatVersion) {
    return unsupported("{}: engine format {}, this kv8 reads {}; rebuild the engine with llm_build",
                       source, header.version, kEngineFormatVersion);
  }
  header.backend = get_text(file, kBackendAt, kBackendBytes);
  header.architecture = get_text(file, kArchitectureAt, kArchitectureBytes);
  header.plan_bytes = get_number(file, kPlanBytesAt, 8);
  header.weights_offset = get_number(file, kWeightsOffsetAt, 8);
  header.weights_bytes = get_number(file, kWeightsBytesAt, 8);
  header.plan_hash = get_text(file, kPlanHashAt, kHashBytes);
  header.weights_hash = get_text(file, kWeightsHashAt, kHashBytes);
  if (header.plan_bytes > kMaxPlanBytes || header.plan_bytes > file.size() - kHeaderBytes ||
      header.weights_offset != weights_offset_for(header.plan_bytes) ||
      header.weights_offset > file.size() ||
      header.weights_bytes != file.size() - header.weights_offset) {
    return bad_input(
        "{}: {} bytes, the header speaks of a plan of {} and weights of {}; the file is cut off or "
        "damaged: rebuild the engine with llm_build",
        source, file.size(), header.plan_bytes, header.weights_bytes);
  }
  // Every other byte is as this version writes it.
  if (!std::ranges::equal(encode(header), file.first(kHeaderBytes))) {
    return bad_input("{}: the header is damaged; rebuild the engine with llm_build", source);
  }
  return header;
}

Status check_target(const Header& header, std::string_view backend, std::string_view source) {
  if (header.backend != backend) {
    return unsupported(
        "{}: built for backend {}, asked to run on {}; rebuild it with llm_build --backend {}",
        source, header.backend, backend, backend);
  }
  const std::string architecture = KV8_TRY(backend_architecture(backend));
  if (header.architecture != architecture) {
    return unsupported("{}: built for architecture {}, this machine has {}; rebuild it here",
                       source, header.architecture, architecture);
  }
  return {};
}

Status check_hash(std::span<const std::byte> section, const std::string& expected,
                  std::string_view what, std::string_view source) {
  if (sha256_hex(section) != expected) {
    return bad_input(
        "{}: the {} does not have the SHA-256 of the header; the file is damaged: "
        "rebuild the engine with llm_build",
        source, what);
  }
  return {};
}

/// Writes bytes to a file and into a hash, in pieces, showing progress.
class HashedWriter {
 public:
  HashedWriter(AtomicFile& file, ProgressSink* progress) : file_(file), progress_(progress) {}

  Status write(std::span<const std::byte> data) {
    constexpr std::size_t kPiece = std::size_t{8} << 20;
    while (!data.empty()) {
      if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
      const auto piece = data.first(std::min(kPiece, data.size()));
      hash_.update(piece);
      KV8_TRY(file_.write(piece));
      written_ += piece.size();
      if (progress_ != nullptr) progress_->advance(static_cast<std::int64_t>(written_ >> 20));
      data = data.subspan(piece.size());
    }
    return {};
  }
  Status pad_to(std::uint64_t alignment) {
    static constexpr std::array<std::byte, kWeightAlignment> kZeros{};
    return write(std::span(kZeros).first((alignment - written_ % alignment) % alignment));
  }
  std::string hash() { return hash_.hex(); }

 private:
  AtomicFile& file_;
  ProgressSink* progress_;
  Sha256 hash_;
  std::uint64_t written_ = 0;
};

Status write_weights(const Plan& plan, HashedWriter& writer) {
  for (const PlanWeight& weight : plan.weights) {
    for (const TensorView& part : weight.parts) KV8_TRY(writer.write(part.bytes));
    KV8_TRY(writer.pad_to(kWeightAlignment));
  }
  return {};
}

}  // namespace

Status write_engine_file(const Plan& plan, const BuilderConfig& config,
                         const std::filesystem::path& path, const Reporter& reporter) {
  const std::string text = KV8_TRY(plan_to_json(plan));
  const WeightLayout layout = KV8_TRY(layout_weights(plan.weights));
  Header header;
  header.backend = config.backend;
  header.architecture = KV8_TRY(backend_architecture(config.backend));
  header.plan_bytes = text.size();
  header.weights_offset = weights_offset_for(text.size());
  header.weights_bytes = layout.total;
  header.plan_hash = sha256_hex(text);

  AtomicFile file = KV8_TRY(AtomicFile::create(path));
  KV8_TRY(file.write(encode(header)));
  KV8_TRY(file.write(text));
  KV8_TRY(file.pad_to(kWeightAlignment));
  if (reporter.progress != nullptr) {
    reporter.progress->begin("engine", static_cast<std::int64_t>(layout.total >> 20), "MiB");
  }
  HashedWriter writer(file, reporter.progress);
  const Status written = write_weights(plan, writer);
  if (reporter.progress != nullptr) reporter.progress->end();
  KV8_TRY(written);
  header.weights_hash = writer.hash();
  KV8_TRY(file.write_at(0, encode(header)));
  return file.commit();
}

Result<Plan> read_engine_file(const std::filesystem::path& path, std::string_view backend,
                              bool verify_hash) {
  const std::string source = path.string();
  const auto mapping = std::make_shared<MappedFile>(KV8_TRY(MappedFile::open(path)));
  const std::span<const std::byte> bytes = mapping->bytes();
  const Header header = KV8_TRY(decode(bytes, source));
  KV8_TRY(check_target(header, backend, source));
  const auto plan_section = bytes.subspan(kHeaderBytes, header.plan_bytes);
  const auto weights = bytes.subspan(header.weights_offset);
  KV8_TRY(check_hash(plan_section, header.plan_hash, "plan", source));
  if (verify_hash) KV8_TRY(check_hash(weights, header.weights_hash, "weights section", source));
  const std::string_view text(reinterpret_cast<const char*>(plan_section.data()),
                              plan_section.size());
  return plan_from_json(text, weights, mapping, source);
}

}  // namespace kv8::exec
