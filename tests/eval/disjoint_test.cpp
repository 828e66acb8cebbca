// The text that scales are calibrated with must not be the text that accuracy is measured on.
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "eval/eval.h"
#include "quant/dataset.h"

namespace kv8::eval {
namespace {

/// Runs of `length` consecutive words, lower-cased in ASCII. A word is a run of ASCII letters and
/// digits and of bytes beyond ASCII.
std::set<std::string> word_runs(std::string_view text, std::size_t length) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c & 0x80) != 0;
    const bool upper = c >= 'A' && c <= 'Z';
    if (letter || upper) {
      words.back() += upper ? static_cast<char>(c - 'A' + 'a') : c;
    } else if (!words.back().empty()) {
      words.emplace_back();
    }
  }
  std::set<std::string> runs;
  for (std::size_t i = 0; i + length <= words.size(); ++i) {
    std::string run;
    for (std::size_t j = 0; j < length; ++j) run += words[i + j] + " ";
    runs.insert(run);
  }
  return runs;
}

TEST(Texts, CalibrationAndHeldOutTextShareNoEightWords) {
  const auto calibration = word_runs(quant::builtin_calibration_text(), 8);
  const auto held_out = word_runs(held_out_text(), 8);
  EXPECT_GT(calibration.size(), 5000u);
  EXPECT_GT(held_out.size(), 2000u);
  for (const std::string& run : held_out) {
    EXPECT_FALSE(calibration.contains(run)) << run;
  }
}

}  // namespace
}  // namespace kv8::eval
