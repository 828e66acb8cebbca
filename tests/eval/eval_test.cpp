#include "eval/eval.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/hash.h"
#include "base/temp_dir.h"
#include "exec/sequence.h"
#include "quant/dataset.h"
#include "support/fp8_checkpoint.h"
#include "support/tiny_checkpoint.h"

namespace kv8::eval {
namespace {

using testing::HasSubstr;

class EvalTest : public testing::Test {
 protected:
  void make_fp8(const std::string& model) {
    test::make_tiny_checkpoint(model, dir_ / "plain");
    test::make_fp8_checkpoint(dir_ / "plain", dir_ / "fp8", 8, 128);
    options_.num_threads = 1;
    options_.checkpoint_dir = dir_ / "fp8";
  }

  test::TempDir dir_;
  EvalOptions options_;
};

/// Sum of -log p(next) over one window, computed in one step.
double window_nll(const std::filesystem::path& dir, bool fp8, std::span<const std::int32_t> ids) {
  const auto engine = exec::Engine::from_checkpoint(dir, fp8, {}).value();
  const auto backend = engine
                           ->open_backend({.num_threads = 1,
                                           .num_pages = 16,
                                           .max_rows = static_cast<std::int64_t>(ids.size())})
                           .value();
  exec::KvPool pool(16);
  exec::Sequence sequence(pool);
  std::vector<float> logits;
  exec::StepItem item{&sequence, ids, exec::StepItem::Logits::kAll};
  exec::run_step(*engine, *backend, std::span(&item, 1), logits).value();
  const auto vocab = static_cast<std::size_t>(engine->plan().vocab_size);
  double nll = 0.0;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    double sum = 0.0;
    for (std::size_t j = 0; j < vocab; ++j) sum += std::exp(double{logits[i * vocab + j]});
    nll += std::log(sum) - logits[i * vocab + static_cast<std::size_t>(ids[i + 1])];
  }
  return nll;
}

TEST_F(EvalTest, PerplexityIsThatOfEveryWindow) {
  make_fp8("qwen3");
  std::string text;
  for (int i = 0; i < 70; ++i) text += "line " + std::to_string(i * i) + "\n";
  test::write_bytes(dir_ / "text.txt", text);
  options_.text_file = (dir_ / "text.txt").string();
  options_.window_tokens = 300;
  const EvalResult result = evaluate_kv_cache(options_, {}).value();
  EXPECT_EQ(result.text_sha256, sha256_hex(text));

  const auto tokenizer = text::Tokenizer::load(dir_ / "fp8").value();
  double fp16 = 0.0, fp8 = 0.0;
  std::int64_t count = 0;
  for (const auto& window : quant::split_windows(tokenizer, text, 300, 1000)) {
    fp16 += window_nll(dir_ / "fp8", false, window);
    fp8 += window_nll(dir_ / "fp8", true, window);
    count += static_cast<std::int64_t>(window.size()) - 1;
  }
  EXPECT_EQ(result.num_tokens, count);
  // 3 layers, K and V of 2 heads of 32.
  EXPECT_EQ(result.kv_bytes_per_token_fp16, 3 * 2 * 2 * 32 * 2);
  EXPECT_EQ(result.kv_bytes_per_token_fp8, 3 * 2 * 2 * 32);
  EXPECT_NEAR(result.perplexity_fp16, std::exp(fp16 / static_cast<double>(count)),
              1e-4 * result.perplexity_fp16);
  EXPECT_NEAR(result.perplexity_fp8, std::exp(fp8 / static_cast<double>(count)),
              1e-3 * result.perplexity_fp8);
  EXPECT_GT(result.mean_kl, 0.0);
  EXPECT_LT(result.mean_kl, 0.1);
  EXPECT_GT(result.top1_agreement, 0.5);
  EXPECT_LE(result.top1_agreement, 1.0);
}

TEST_F(EvalTest, TheHeldOutTextIsTheDefaultAndMaxTokensCutsIt) {
  make_fp8("llama3");
  options_.max_tokens = 100;
  options_.window_tokens = 64;
  const EvalResult result = evaluate_kv_cache(options_, {}).value();
  EXPECT_EQ(result.num_tokens, 98);
  EXPECT_EQ(result.text_name, "held-out");
  EXPECT_EQ(result.text_sha256, sha256_hex(held_out_text()));
}

TEST_F(EvalTest, RefusesWhatItCannotCompare) {
  make_fp8("qwen3");
  EvalOptions plain = options_;
  plain.checkpoint_dir = dir_ / "plain";
  EXPECT_THAT(evaluate_kv_cache(plain, {}).error().message, HasSubstr("no FP8 KV cache"));
  EvalOptions missing = options_;
  missing.text_file = (dir_ / "none.txt").string();
  EXPECT_THAT(evaluate_kv_cache(missing, {}).error().message, HasSubstr("none.txt"));
  EvalOptions narrow = options_;
  narrow.window_tokens = 1;
  EXPECT_EQ(evaluate_kv_cache(narrow, {}).error().code, ErrorCode::kUsage);
  set_interrupted(true);
  const auto stopped = evaluate_kv_cache(options_, {});
  set_interrupted(false);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace kv8::eval
