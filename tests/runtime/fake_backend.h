// A backend without mathematics, for schedulers: what it "computes" is exact, so that any mistake
// in pages, positions or tokens changes the answer.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "graph/backend.h"

namespace kv8::runtime {

/// Keeps, in the place of a token's K and V, a number that stands for the whole text up to it, got
/// from the token and the number before it, which is read through the page table. That number also
/// is the next token.
class FakeBackend : public Backend {
 public:
  static constexpr std::int32_t kVocab = 1000;

  FakeBackend(std::int32_t num_pages, std::int64_t max_rows)
      : max_rows_(max_rows), pages_(static_cast<std::size_t>(num_pages)) {}

  /// Looks at every batch before it runs; an error is the run's.
  std::function<Status(const Batch&)> on_run;

  Status run(const Batch& batch, TapSink*) override {
    KV8_CHECK(std::ssize(batch.token_ids) <= max_rows_, "{} rows", batch.token_ids.size());
    if (on_run) KV8_TRY(on_run(batch));
    std::vector<std::uint64_t> rows(batch.token_ids.size());
    for (const SequenceSlice& slice : batch.sequences) {
      std::uint64_t text = slice.past_tokens == 0 ? 0 : at(slice, slice.past_tokens - 1);
      for (std::int32_t i = 0; i < slice.num_tokens; ++i) {
        const auto row = static_cast<std::size_t>(slice.first_row + i);
        text = continued(text, batch.token_ids[row]);
        at(slice, slice.past_tokens + i) = rows[row] = text;
      }
    }
    wanted_.clear();
    for (const std::int32_t row : batch.logits_rows) {
      wanted_.push_back(rows[static_cast<std::size_t>(row)]);
    }
    return {};
  }
  Status read_logits(std::span<float>) override { return unsupported("no logits"); }
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override {
    KV8_CHECK(rows.size() == wanted_.size() && tokens.size() == rows.size(), "{} rows of {}",
              rows.size(), wanted_.size());
    for (std::size_t i = 0; i < rows.size(); ++i) tokens[i].chosen.id = next_token(wanted_[i]);
    return {};
  }
  Status copy_page(std::int32_t, std::int32_t) override { return unsupported("no copies"); }
  std::int64_t max_rows() const override { return max_rows_; }
  std::int32_t num_pages() const override { return static_cast<std::int32_t>(pages_.size()); }
  std::string_view name() const override { return "fake"; }

  /// The answer of `count` tokens by the definition alone.
  static std::vector<std::int32_t> answer(const std::vector<std::int32_t>& prompt,
                                          std::int64_t count) {
    std::uint64_t text = 0;
    for (const std::int32_t token : prompt) text = continued(text, token);
    std::vector<std::int32_t> tokens;
    for (; count > 0; --count) {
      tokens.push_back(next_token(text));
      text = continued(text, tokens.back());
    }
    return tokens;
  }

 private:
  static std::uint64_t continued(std::uint64_t text, std::int32_t token) {
    text = (text ^ static_cast<std::uint32_t>(token + 1)) * 0x9E3779B97F4A7C15u;
    return text ^ (text >> 29);
  }
  static std::int32_t next_token(std::uint64_t text) {
    return static_cast<std::int32_t>(text % kVocab);
  }
  std::uint64_t& at(const SequenceSlice& slice, std::int32_t position) {
    const auto page = static_cast<std::size_t>(slice.page_table[position / kPageTokens]);
    return pages_[page][static_cast<std::size_t>(position % kPageTokens)];
  }

  std::int64_t max_rows_;
  std::vector<std::array<std::uint64_t, kPageTokens>> pages_;
  std::vector<std::uint64_t> wanted_;
};

}  // namespace kv8::runtime
