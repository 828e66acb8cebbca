#include "eval/compare_values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>

#include "exec/engine.h"

namespace kv8::eval {
namespace {

constexpr std::int64_t kMaxRecordedBytes = std::int64_t{8} << 30;

/// The layer of a step by its number, kNone for those behind the layers: every layer has as many.
std::int32_t layer_of_step(const Plan& plan, std::int64_t step) {
  const auto selects = std::find_if(plan.steps.begin(), plan.steps.end(), [](const Step& s) {
    return std::holds_alternative<SelectRowsStep>(s);
  });
  const std::int64_t in_layers = selects - plan.steps.begin();
  if (step < 0 || step >= in_layers || in_layers % plan.num_layers != 0) return kNone;
  return static_cast<std::int32_t>(step / (in_layers / plan.num_layers));
}

class Recorder final : public TapSink {
 public:
  explicit Recorder(const Plan& plan) : plan_(plan) {}

  void on_qkv(std::int32_t layer, std::int64_t rows, const float* q, const float* k,
              const float* v) override {
    const std::int64_t kv_cols = std::int64_t{plan_.num_kv_heads} * plan_.head_dim;
    const auto add_part = [&](char letter, std::int64_t cols, const float* values) {
      add(fmt::format("{} of layer {} (unrounded)", letter, layer), layer, rows, cols, values);
    };
    add_part('q', std::int64_t{plan_.num_heads} * plan_.head_dim, q);
    add_part('k', kv_cols, k);
    add_part('v', kv_cols, v);
  }
  bool wants_values() const override { return true; }
  void on_value(std::string_view name, std::int64_t rows, std::int64_t cols,
                const float* values) override {
    std::int64_t step = kNone;  // a name begins with its step's number
    std::from_chars(name.data(), name.data() + name.size(), step);
    add(std::string(name), layer_of_step(plan_, step), rows, cols, values);
  }
  Recording take() { return std::move(recording_); }

  void add(const std::string& name, std::int32_t layer, std::int64_t rows, std::int64_t cols,
           const float* values) {
    const auto [found, is_new] = recording_.values.try_emplace(name);
    if (is_new) recording_.names.push_back(name);
    RecordedValues& all = found->second;
    all.layer = layer;
    all.cols = cols;
    all.rows += rows;
    all.values.insert(all.values.end(), values, values + rows * cols);
  }

 private:
  const Plan& plan_;
  Recording recording_;
};

/// Runs a batch with taps, then again without for its logits: the cache gets the same values.
Status record_call(Backend& backend, const Batch& batch, std::int32_t vocab_size,
                   Recorder& recorder) {
  KV8_TRY(backend.run(batch, &recorder));
  KV8_TRY(backend.run(batch, nullptr));
  const auto rows = static_cast<std::int64_t>(batch.logits_rows.size());
  std::vector<float> logits(static_cast<std::size_t>(rows * vocab_size));
  KV8_TRY(backend.read_logits(logits));
  recorder.add("logits without taps", kNone, rows, vocab_size, logits.data());
  return {};
}

Status check_size(const Plan& plan, std::int64_t tokens) {
  std::int64_t floats = std::int64_t{plan.num_layers} * plan.head_dim *
                        (plan.num_heads + 2 * std::int64_t{plan.num_kv_heads});
  for (const Step& step : plan.steps) {
    floats += plan.slot_cols[static_cast<std::size_t>(written_slot(step))];
  }
  const std::int64_t bytes_per_token = floats * static_cast<std::int64_t>(sizeof(float));
  if (tokens > kMaxRecordedBytes / bytes_per_token) {
    return capacity_error(
        "the values of {} tokens take {} bytes each, more than {} together; compare fewer tokens "
        "or layers",
        tokens, bytes_per_token, kMaxRecordedBytes);
  }
  return {};
}

ValueDifference difference(const RecordedValues& a, const RecordedValues& b) {
  ValueDifference result;
  result.rows = a.rows;
  result.cols = a.cols;
  result.layer = a.layer;
  double largest = 0, squares = 0, error_squares = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    const double x = a.values[i], y = b.values[i];
    const bool finite = std::isfinite(x) && std::isfinite(y);
    const double error = finite ? std::abs(x - y) : std::numeric_limits<double>::infinity();
    if (finite) largest = std::max(largest, std::abs(x));
    squares += x * x;
    error_squares += error * error;
    if (error <= result.max_error && i > 0) continue;
    result.max_error = error;
    result.worst_row = static_cast<std::int64_t>(i) / a.cols;
    result.worst_col = static_cast<std::int64_t>(i) % a.cols;
    result.worst_a = a.values[i];
    result.worst_b = b.values[i];
  }
  if (result.max_error > 0) {
    result.relative_error = result.max_error / largest;  // infinite where all of a is zero
    result.rms_error = std::isfinite(result.max_error) ? std::sqrt(error_squares / squares)
                                                       : std::numeric_limits<double>::infinity();
  }
  return result;
}

}  // namespace

Result<Recording> record_values(const io::Checkpoint& checkpoint, std::span<const std::int32_t> ids,
                                const RunSettings& settings) {
  KV8_CHECK(!ids.empty(), "no tokens");
  const auto count = static_cast<std::int64_t>(ids.size());
  exec::BuilderConfig config;
  config.backend = settings.backend;
  config.q_dtype = settings.q_dtype;
  config.qk_exponent_shift = exec::kShiftForHalfScores;  // the same codes on every backend
  config.max_input_len = static_cast<std::int32_t>(count);
  config.max_kv_cache_capacity = config.max_input_len;
  config.max_batch_size = 1;
  const auto engine = KV8_TRY(exec::Engine::from_checkpoint(checkpoint, settings.kv_fp8, config));
  KV8_TRY(check_size(engine->plan(), count));
  const auto backend =
      KV8_TRY(engine->open_backend({.num_threads = settings.num_threads,
                                    .num_pages = static_cast<std::int32_t>(pages_for_tokens(count)),
                                    .max_rows = count,
                                    .max_sequences = 1}));
  std::vector<std::int32_t> pages(static_cast<std::size_t>(backend->num_pages()));
  std::iota(pages.begin(), pages.end(), 0);
  Recorder recorder(engine->plan());
  const std::int64_t first =
      settings.prefill > 0 ? std::min<std::int64_t>(settings.prefill, count) : count;
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t now = done == 0 ? first : 1;
    std::vector<std::int32_t> rows(static_cast<std::size_t>(now));
    std::iota(rows.begin(), rows.end(), 0);
    SequenceSlice slice;
    slice.num_tokens = static_cast<std::int32_t>(now);
    slice.past_tokens = static_cast<std::int32_t>(done);
    slice.page_table = pages.data();
    const Batch batch{ids.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(now)),
                      std::span(&slice, 1), rows};
    KV8_TRY(record_call(*backend, batch, engine->plan().vocab_size, recorder));
    done += now;
  }
  return recorder.take();
}

Result<ValueComparison> compare_values(const Recording& a, const Recording& b) {
  ValueComparison comparison;
  for (const std::string& name : a.names) {
    const auto other = b.values.find(name);
    if (other == b.values.end()) {
      comparison.only_in_a.push_back(name);
      continue;
    }
    const RecordedValues& mine = a.values.at(name);
    if (mine.rows != other->second.rows || mine.cols != other->second.cols) {
      return bad_input("`{}` is [{}, {}] in one run and [{}, {}] in the other", name, mine.rows,
                       mine.cols, other->second.rows, other->second.cols);
    }
    comparison.differences.push_back(difference(mine, other->second));
    comparison.differences.back().name = name;
  }
  for (const std::string& name : b.names) {
    if (!a.values.contains(name)) comparison.only_in_b.push_back(name);
  }
  return comparison;
}

const ValueDifference* first_beyond(const ValueComparison& comparison, double tolerance) {
  const auto found = std::ranges::find_if(
      comparison.differences,
      [tolerance](const ValueDifference& d) { return !(d.relative_error <= tolerance); });
  return found == comparison.differences.end() ? nullptr : &*found;
}

}  // namespace kv8::eval
