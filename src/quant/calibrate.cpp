#include "quant/calibrate.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <system_error>

#include "base/file.h"
#include "exec/backends.h"
#include "exec/sequence.h"
#include "ops/kv_layout.h"
#include "quant/checkpoint_writer.h"
#include "quant/dataset.h"
#include "quant/kv_observer.h"

namespace kv8::quant {
namespace {

namespace fs = std::filesystem;

/// Short samples share a step, as many as this.
constexpr std::size_t kMaxSequences = 16;

/// A model that computes plainly: FP16 cache, one sequence of `window` tokens or several short
/// ones.
struct PlainModel {
  std::unique_ptr<exec::Engine> engine;
  std::unique_ptr<Backend> backend;
};

Result<PlainModel> open_plain_model(const fs::path& dir, std::int64_t window, int num_threads,
                                    const std::string& backend) {
  exec::BuilderConfig config;
  config.backend = backend;
  config.max_input_len = static_cast<std::int32_t>(window);
  config.max_kv_cache_capacity = config.max_input_len;
  config.max_batch_size = static_cast<std::int32_t>(kMaxSequences);
  PlainModel model;
  model.engine = KV8_TRY(exec::Engine::from_checkpoint(dir, false, config));
  const auto pages = static_cast<std::int32_t>(pages_for_tokens(window) + kMaxSequences);
  model.backend = KV8_TRY(model.engine->open_backend({.num_threads = num_threads,
                                                      .num_pages = pages,
                                                      .max_rows = window,
                                                      .max_logits_rows = 1,
                                                      .max_sequences = kMaxSequences}));
  return model;
}

/// Samples from `first` on that fit one step together.
std::size_t samples_of_step(const std::vector<std::vector<std::int32_t>>& samples,
                            std::size_t first, std::int64_t max_rows) {
  std::int64_t rows = 0;
  std::size_t count = 0;
  while (first + count < samples.size() && count < kMaxSequences) {
    rows += static_cast<std::int64_t>(samples[first + count].size());
    if (rows > max_rows) break;
    ++count;
  }
  return count;
}

Status observe_samples(PlainModel& model, const std::vector<std::vector<std::int32_t>>& samples,
                       KvObserver& observer, ProgressSink* progress) {
  exec::KvPool pool(model.backend->num_pages());
  for (std::size_t first = 0; first < samples.size();) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    const std::size_t count = samples_of_step(samples, first, model.backend->max_rows());
    KV8_CHECK(count > 0, "a sample of {} tokens", samples[first].size());
    std::vector<exec::Sequence> sequences;
    sequences.reserve(count);
    std::vector<exec::StepItem> items;
    for (std::size_t i = first; i < first + count; ++i) {
      sequences.emplace_back(pool);
      items.push_back({&sequences.back(), samples[i], exec::StepItem::Logits::kNone});
    }
    KV8_TRY(exec::run_step(*model.backend, items, &observer));
    first += count;
    if (progress != nullptr) progress->advance(static_cast<std::int64_t>(first));
  }
  return {};
}

Status check_vocabulary(const Dataset& dataset, std::int32_t vocab_size) {
  for (const auto& sample : dataset.samples) {
    for (const std::int32_t id : sample) {
      if (id < 0 || id >= vocab_size) {
        return bad_input(
            "the tokenizer gives token {}, but the model's vocabulary has {}; "
            "tokenizer.json and model do not belong together",
            id, vocab_size);
      }
    }
  }
  return {};
}

Status check_output(const fs::path& model_dir, const fs::path& output_dir) {
  std::error_code failure;
  if (fs::equivalent(model_dir, output_dir, failure)) {
    return usage_error("{}: the output folder is the model's own; choose another",
                       output_dir.string());
  }
  failure.clear();
  for (fs::directory_iterator entry(output_dir, failure), end; !failure && entry != end;
       entry.increment(failure)) {
    const std::string name = entry->path().filename().string();
    // A checkpoint of another number of shards would leave files that no longer belong.
    if (name.starts_with("model-") || name == "model.safetensors.index.json") {
      return usage_error("{}: the output folder holds a checkpoint in shards; choose an empty one",
                         output_dir.string());
    }
  }
  return {};
}

}  // namespace

Result<CalibrationResult> calibrate(const fs::path& model_dir, const CalibrationOptions& options,
                                    const Reporter& reporter) {
  if (options.num_samples < 1 || options.sample_tokens < 2) {
    return usage_error("calibration needs at least 1 sample of 2 tokens, asked were {} of {}",
                       options.num_samples, options.sample_tokens);
  }
  const io::ModelConfig config = KV8_TRY(io::read_model_config(model_dir));
  CalibrationOptions fitting = options;
  fitting.sample_tokens =
      std::min<std::int64_t>(options.sample_tokens, config.max_position_embeddings);
  const text::Tokenizer tokenizer = KV8_TRY(text::Tokenizer::load(model_dir));
  const Dataset dataset = KV8_TRY(load_dataset(fitting, tokenizer, reporter));
  KV8_TRY(check_vocabulary(dataset, config.vocab_size));

  CalibrationResult result;
  result.dataset_name = dataset.name;
  result.dataset_sha256 = dataset.sha256;
  result.samples_asked = options.num_samples;
  result.num_samples = static_cast<std::int64_t>(dataset.samples.size());
  for (const auto& sample : dataset.samples) {
    result.num_tokens += static_cast<std::int64_t>(sample.size());
  }
  reporter.info(fmt::format("{}: {} samples of at most {} tokens ({} asked), {} tokens",
                            dataset.name, result.num_samples, fitting.sample_tokens,
                            options.num_samples, result.num_tokens));

  PlainModel model = KV8_TRY(open_plain_model(model_dir, fitting.sample_tokens, options.num_threads,
                                              exec::choose_backend(options.backend, reporter)));
  reporter.info(model.backend->summary());
  KvObserver observer(model.engine->plan());
  if (reporter.progress != nullptr) {
    reporter.progress->begin("calibrating", result.num_samples, "samples");
  }
  const Status status = observe_samples(model, dataset.samples, observer, reporter.progress);
  if (reporter.progress != nullptr) reporter.progress->end();
  if (!status.ok()) return status.error();
  result.layers = KV8_TRY(observer.amax());
  return result;
}

Status quantize_llm(const QuantizeOptions& options, const Reporter& reporter) {
  const io::Checkpoint source = KV8_TRY(io::Checkpoint::open(options.model_dir));
  if (source.quantization().kv_cache_fp8) {
    return unsupported("{}: the checkpoint has FP8 KV scales already ({}); quantize the original",
                       options.model_dir.string(), source.quantization().source);
  }
  KV8_TRY(check_output(options.model_dir, options.output_dir));
  AtomicDir output = KV8_TRY(AtomicDir::create(options.output_dir));
  std::optional<CalibrationResult> calibration;
  if (options.kv_cache_fp8) {
    calibration = KV8_TRY(calibrate(options.model_dir, options.calibration, reporter));
  }
  KV8_TRY(write_checkpoint(source, output.temporary(), calibration, options.per_head));
  return output.commit();
}

}  // namespace kv8::quant
