#include "quant/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"

extern "C" const char kBuiltinCalibrationText[];
extern "C" const char kBuiltinCalibrationTextEnd[];

namespace kv8::quant {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kBuiltin = "builtin", kDefaultName = "cnn_dailymail";
constexpr std::size_t kBlockBytes = 1 << 16, kMaxBlockBytes = 1 << 20;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/// Length of the first part of `text` that can be tokenized by itself: it ends after a newline that
/// text follows, at a character's end where there is no newline for long.
std::size_t block_length(std::string_view text) {
  for (std::size_t i = kBlockBytes; i < std::min(text.size(), kMaxBlockBytes); ++i) {
    if (text[i - 1] == '\n' && !is_space(text[i])) return i;
  }
  std::size_t end = std::min(text.size(), kMaxBlockBytes);
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  return end;
}

bool is_there(const fs::path& path) {
  std::error_code failure;
  return fs::exists(path, failure);
}

bool has_extension(const fs::path& path, std::string_view extension) {
  return path.extension() == extension;
}

/// Where `$KV8_DATASETS` may hold the name, in the order of looking.
std::vector<fs::path> candidates(const std::string& name) {
  const char* root = std::getenv("KV8_DATASETS");
  if (root == nullptr || *root == '\0' || name.empty()) return {};
  const fs::path base = fs::path(root) / name;
  return {base, base.string() + ".jsonl", base.string() + ".txt"};
}

Result<fs::path> find_dataset(const std::string& name) {
  if (is_there(name)) return fs::path(name);
  std::string looked = fmt::format("`{}`", name);
  for (const fs::path& path : candidates(name)) {
    if (is_there(path)) return path;
    looked += fmt::format(", `{}`", path.string());
  }
  const bool no_root = candidates(name).empty();
  return not_found(
      "dataset `{}` was not found; looked for {}{}; give a .txt or .jsonl file, a "
      "folder of them, or `builtin`",
      name, looked, no_root ? " ($KV8_DATASETS is not set)" : "");
}

Result<std::vector<fs::path>> dataset_files(const fs::path& path) {
  std::error_code failure;
  if (!fs::is_directory(path, failure)) return std::vector<fs::path>{path};
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(path, failure), end; !failure && entry != end;
       entry.increment(failure)) {
    if (has_extension(entry->path(), ".txt") || has_extension(entry->path(), ".jsonl")) {
      files.push_back(entry->path());
    }
  }
  if (failure) return io_error("{}: cannot be listed: {}", path.string(), failure.message());
  if (files.empty()) return not_found("{}: the folder has no .txt or .jsonl file", path.string());
  std::sort(files.begin(), files.end());
  return files;
}

Result<std::string> text_of_line(std::string_view line, const std::string& where) {
  const Json json = KV8_TRY(parse_json(line, where));
  if (!json.is_object()) return bad_input("{}: is {}, expected an object", where, json.type_name());
  for (const char* key : {"text", "article", "content"}) {
    if (json.contains(key)) return json_string(json, key, where);
  }
  return bad_input("{}: has none of the fields `text`, `article`, `content`", where);
}

class Sampler {
 public:
  Sampler(const CalibrationOptions& options, const text::Tokenizer& tokenizer, Dataset& dataset)
      : options_(options), tokenizer_(tokenizer), dataset_(dataset) {}

  std::int64_t lacking() const {
    return options_.num_samples - static_cast<std::int64_t>(dataset_.samples.size());
  }
  void add_windows(std::string_view text, std::int64_t max_windows) {
    for (auto& sample : split_windows(tokenizer_, text, options_.sample_tokens,
                                      std::min(max_windows, lacking()))) {
      dataset_.samples.push_back(std::move(sample));
    }
  }
  Status add_file(const fs::path& path, std::string_view text) {
    if (has_extension(path, ".jsonl")) return add_lines(path, text);
    add_windows(text, lacking());
    return {};
  }

 private:
  Status add_lines(const fs::path& path, std::string_view text) {
    for (std::size_t number = 1; !text.empty() && lacking() > 0; ++number) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (std::ranges::all_of(line, is_space)) continue;
      add_windows(KV8_TRY(text_of_line(line, fmt::format("{}: line {}", path.string(), number))),
                  1);
    }
    return {};
  }

  const CalibrationOptions& options_;
  const text::Tokenizer& tokenizer_;
  Dataset& dataset_;
};

/// The default's name, said aloud because calibration depends on it.
std::string choose_dataset(const std::string& asked, const Reporter& reporter) {
  if (!asked.empty()) return asked;
  const std::vector<fs::path> places = candidates(std::string(kDefaultName));
  const bool found = std::ranges::any_of(places, is_there);
  reporter.info(found ? "calibration text: cnn_dailymail, found under $KV8_DATASETS"
                      : "calibration text: builtin, which ships with kv8 (no cnn_dailymail under "
                        "$KV8_DATASETS; --dataset takes another)");
  return std::string(found ? kDefaultName : kBuiltin);
}

}  // namespace

std::vector<std::vector<std::int32_t>> split_windows(const text::Tokenizer& tokenizer,
                                                     std::string_view text, std::int64_t window,
                                                     std::int64_t max_windows) {
  const std::vector<std::int32_t> prefix = tokenizer.encode("", true);
  const auto size = static_cast<std::size_t>(window);
  KV8_CHECK(size > prefix.size(), "windows of {} tokens, {} of them special", size, prefix.size());
  std::vector<std::vector<std::int32_t>> windows;
  std::vector<std::int32_t> current;
  while (!text.empty() && static_cast<std::int64_t>(windows.size()) < max_windows) {
    const std::size_t length = block_length(text);
    for (const std::int32_t id : tokenizer.encode(text.substr(0, length), false)) {
      if (current.empty()) current = prefix;
      current.push_back(id);
      if (current.size() == size) windows.push_back(std::exchange(current, {}));
    }
    text.remove_prefix(length);
  }
  if (!current.empty()) windows.push_back(std::move(current));
  if (static_cast<std::int64_t>(windows.size()) > max_windows) {
    windows.resize(static_cast<std::size_t>(std::max<std::int64_t>(max_windows, 0)));
  }
  return windows;
}

std::string_view builtin_calibration_text() {
  return {kBuiltinCalibrationText, kBuiltinCalibrationTextEnd};
}

Result<Dataset> load_dataset(const CalibrationOptions& options, const text::Tokenizer& tokenizer,
                             const Reporter& reporter) {
  Dataset dataset;
  dataset.name = choose_dataset(options.dataset, reporter);
  Sampler sampler(options, tokenizer, dataset);
  if (dataset.name == kBuiltin) {
    dataset.sha256 = sha256_hex(builtin_calibration_text());
    sampler.add_windows(builtin_calibration_text(), options.num_samples);
  } else {
    Sha256 hash;
    const std::vector<fs::path> files = KV8_TRY(dataset_files(KV8_TRY(find_dataset(dataset.name))));
    for (const fs::path& file : files) {
      const std::string text = KV8_TRY(read_text_file(file));
      hash.update(text);
      KV8_TRY(sampler.add_file(file, text));
    }
    dataset.sha256 = hash.hex();
  }
  if (dataset.samples.empty()) return bad_input("dataset `{}` has no text", dataset.name);
  return dataset;
}

}  // namespace kv8::quant
