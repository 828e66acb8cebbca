// Text for calibration and evaluation, as token samples.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "quant/calibrate.h"
#include "text/tokenizer.h"

namespace kv8::quant {

/// Consecutive windows of at most `window` tokens, the last one perhaps shorter, at most
/// `max_windows` of them. Each begins with what the tokenizer puts before every text (a BOS). Of a
/// long text no more is tokenized than the windows need.
std::vector<std::vector<std::int32_t>> split_windows(const text::Tokenizer& tokenizer,
                                                     std::string_view text, std::int64_t window,
                                                     std::int64_t max_windows);

/// The text that ships with kv8.
std::string_view builtin_calibration_text();

/// Finds `options.dataset` and cuts it into at most num_samples samples of at most sample_tokens.
///   ""         cnn_dailymail if it lies under $KV8_DATASETS, else "builtin"; says which
///   "builtin"  the text that ships with kv8
///   else       a file or folder, or NAME, NAME.jsonl, NAME.txt under $KV8_DATASETS
/// A .txt file gives windows; a .jsonl file one sample per line, from its field `text`, `article`
/// or `content`; a folder its .txt and .jsonl files in the order of their names.
Result<Dataset> load_dataset(const CalibrationOptions& options, const text::Tokenizer& tokenizer,
                             const Reporter& reporter);

}  // namespace kv8::quant
