#include "cuda/engine/staging.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "cuda/engine/device.h"

namespace kv8::cuda_engine {

static_assert(static_cast<int>(SampleFault::kNothingFinite) ==
              static_cast<int>(LogitsFault::kNothingFinite));

void BatchStaging::FreeEvent::operator()(cudaEvent_t event) const { cudaEventDestroy(event); }

Result<BatchStaging> BatchStaging::create(const EngineMemory& memory,
                                          const BackendOptions& options) {
  BatchStaging staging;
  staging.memory_ = &memory;
  const std::size_t table_words = static_cast<std::size_t>(options.max_sequences) *
                                  static_cast<std::size_t>(memory.page_table_width());
  const std::size_t control_words =
      max_control_words(options.max_rows, options.max_sequences, options.max_logits_rows);
  for (Turn& turn : staging.turns_) {
    turn.control = KV8_TRY(Memory::pinned(control_words * 4));
    turn.page_table = KV8_TRY(Memory::pinned(table_words * 4));
    cudaEvent_t event = nullptr;
    KV8_TRY(cuda_ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event"));
    turn.copied.reset(event);
  }
  staging.on_gpu_.assign(table_words, -1);
  return staging;
}

Status BatchStaging::upload(const BatchImage& image, cudaStream_t stream) {
  Turn& turn = turns_[next_turn_];
  next_turn_ = (next_turn_ + 1) % turns_.size();
  KV8_TRY(cuda_ok(cudaEventSynchronize(turn.copied.get()), "the step before"));
  const std::size_t bytes = image.control.size() * 4;
  std::memcpy(turn.control.data(), image.control.data(), bytes);
  KV8_TRY(cuda_ok(cudaMemcpyAsync(memory_->control(), turn.control.data(), bytes,
                                  cudaMemcpyHostToDevice, stream),
                  "a step's numbers"));
  KV8_TRY(upload_page_tables(image, turn, stream));
  return cuda_ok(cudaEventRecord(turn.copied.get(), stream), "event");
}

Status BatchStaging::upload_page_tables(const BatchImage& image, Turn& turn, cudaStream_t stream) {
  const auto width = static_cast<std::size_t>(memory_->page_table_width());
  std::size_t widest = 0, rows = 0;
  for (std::size_t s = 0; s < image.page_tables.size(); ++s) {
    const auto count = static_cast<std::size_t>(image.num_pages[s]);
    std::int32_t* const known = on_gpu_.data() + s * width;
    if (std::equal(known, known + count, image.page_tables[s])) continue;
    std::copy_n(image.page_tables[s], count, known);
    rows = s + 1;
  }
  if (rows == 0) return {};
  for (std::size_t s = 0; s < rows; ++s) {
    widest = std::max(widest, static_cast<std::size_t>(image.num_pages[s]));
  }
  auto* const pinned = turn.page_table.at<std::int32_t>(0);
  for (std::size_t s = 0; s < rows; ++s) {
    std::copy_n(on_gpu_.data() + s * width, widest, pinned + s * widest);
  }
  return cuda_ok(cudaMemcpy2DAsync(memory_->page_table(), width * 4, pinned, widest * 4, widest * 4,
                                   rows, cudaMemcpyHostToDevice, stream),
                 "page tables");
}

Result<SampleStaging> SampleStaging::create(std::size_t max_rows) {
  SampleStaging staging;
  ArenaLayout layout;
  const std::size_t settings = layout.add(max_rows * sizeof(SampleSettings));
  const std::size_t tokens = layout.add(max_rows * sizeof(SampleToken));
  const std::size_t bias = layout.add(max_rows * kMaxBiasEntries * sizeof(SampleBias));
  const std::size_t top = layout.add(max_rows * kSampleMaxLogprobs * sizeof(SampleTop));
  staging.pinned_ = KV8_TRY(Memory::pinned(layout.total()));
  staging.settings_ = staging.pinned_.at<SampleSettings>(settings);
  staging.tokens_ = staging.pinned_.at<SampleToken>(tokens);
  staging.bias_ = staging.pinned_.at<SampleBias>(bias);
  staging.top_ = staging.pinned_.at<SampleTop>(top);
  return staging;
}

Status SampleStaging::upload(std::span<const SampleRow> rows, const EngineMemory& memory,
                             cudaStream_t stream) {
  std::size_t num_bias = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const SampleRow& row = rows[i];
    if (row.logit_bias.size() > kMaxBiasEntries || row.num_logprobs > kSampleMaxLogprobs) {
      return capacity_error(
          "{} logit biases and {} log-probabilities; the GPU's sampler takes {} and {}",
          row.logit_bias.size(), row.num_logprobs, kMaxBiasEntries, kSampleMaxLogprobs);
    }
    settings_[i] = {row.seed,
                    row.step,
                    row.temperature,
                    row.top_p,
                    row.top_k,
                    row.num_logprobs,
                    static_cast<std::int32_t>(num_bias),
                    static_cast<std::int32_t>(row.logit_bias.size())};
    for (const LogitBias& bias : row.logit_bias) bias_[num_bias++] = {bias.id, bias.bias};
  }
  KV8_TRY(
      cuda_ok(cudaMemcpyAsync(memory.sample_settings(), settings_,
                              rows.size() * sizeof(SampleSettings), cudaMemcpyHostToDevice, stream),
              "sampling settings"));
  if (num_bias == 0) return {};
  return cuda_ok(cudaMemcpyAsync(memory.sample_bias(), bias_, num_bias * sizeof(SampleBias),
                                 cudaMemcpyHostToDevice, stream),
                 "logit biases");
}

Status SampleStaging::fetch(std::span<const SampleRow> rows, const EngineMemory& memory,
                            cudaStream_t stream) {
  KV8_TRY(
      cuda_ok(cudaMemcpyAsync(tokens_, memory.sample_tokens(), rows.size() * sizeof(SampleToken),
                              cudaMemcpyDeviceToHost, stream),
              "sampled tokens"));
  if (std::ranges::all_of(rows, [](const SampleRow& row) { return row.num_logprobs == 0; })) {
    return {};
  }
  return cuda_ok(cudaMemcpyAsync(top_, memory.sample_top(),
                                 rows.size() * kSampleMaxLogprobs * sizeof(SampleTop),
                                 cudaMemcpyDeviceToHost, stream),
                 "log-probabilities");
}

void SampleStaging::read(std::span<const SampleRow> rows, std::int32_t vocab_size,
                         std::span<SampledToken> tokens) const {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    SampledToken& token = tokens[i];
    token = {};
    token.chosen = {tokens_[i].id, tokens_[i].logprob};
    token.fault = static_cast<LogitsFault>(tokens_[i].fault);
    if (token.fault != LogitsFault::kNone) continue;
    const std::int32_t count = std::min(rows[i].num_logprobs, vocab_size);
    const SampleTop* const top = top_ + i * kSampleMaxLogprobs;
    for (std::int32_t t = 0; t < count; ++t) token.top.push_back({top[t].id, top[t].logprob});
  }
}

}  // namespace kv8::cuda_engine
