#include "cpu/cpu_backend.h"

#include <unistd.h>

#include <cstring>
#include <new>

#include "cpu/cpu_ops.h"
#include "formats/simd_codec.h"

namespace kv8::cpu {
namespace {

/// Sizes in bytes, added up so that an overflow is noticed at the end.
class ByteCount {
 public:
  void add(std::int64_t a, std::int64_t b, std::int64_t c) {
    std::int64_t product = 0;
    overflow_ |= __builtin_mul_overflow(a, b, &product);
    overflow_ |= __builtin_mul_overflow(product, c, &product);
    overflow_ |= __builtin_add_overflow(total_, product, &total_);
  }
  bool fits(std::int64_t limit) const { return !overflow_ && total_ <= limit; }
  /// Of `limit` bytes; 0 when they do not suffice.
  std::int64_t left_of(std::int64_t limit) const { return fits(limit) ? limit - total_ : 0; }
  std::string text() const { return overflow_ ? "more than 2^63" : fmt::format("{}", total_); }

 private:
  std::int64_t total_ = 0;
  bool overflow_ = false;
};

/// Weights are copied if they take at most 1 / this of the machine's memory.
constexpr std::size_t kLargestCopiedShare = 4;
constexpr std::size_t kLineBytes = 64;

std::int64_t physical_memory() {
  return std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Plan& plan, TensorView embedding, const BackendOptions& options)
      : plan_(plan),
        embedding_(std::move(embedding)),
        options_(options.completed()),
        workspace_(options.num_threads) {}

  /// Throws std::bad_alloc.
  void allocate() {
    for (const LayerCache& cache : plan_.caches) {
      const KvLayout layout = layout_of(cache);
      const std::int64_t bytes = layout.page_elements() * layout.elem_bytes * options_.num_pages;
      keys_.emplace_back(static_cast<std::size_t>(bytes));
      values_.emplace_back(static_cast<std::size_t>(bytes));
    }
    for (std::size_t slot = 0; slot < plan_.slot_cols.size(); ++slot) {
      const bool logits = static_cast<Slot>(slot) == plan_.logits_slot;
      const std::int64_t floats = logits ? 0 : options_.max_rows * plan_.slot_cols[slot];
      slots_.emplace_back(static_cast<std::size_t>(floats) * sizeof(float));
    }
    const std::size_t angles = static_cast<std::size_t>(options_.max_rows * (plan_.head_dim / 2));
    cos_ = Buffer(angles * sizeof(float));
    sin_ = Buffer(angles * sizeof(float));
    gather_weights();
  }

  Status run(const Batch& batch, TapSink* taps) override;
  Status read_logits(std::span<float> logits) override;
  Status sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) override;
  Status copy_page(std::int32_t from, std::int32_t to) override;
  std::int64_t max_rows() const override { return options_.max_rows; }
  std::int32_t num_pages() const override { return options_.num_pages; }
  std::string_view name() const override { return "cpu"; }
  std::string summary() const override {
    return fmt::format("cpu: {} threads", workspace_.num_threads());
  }

 private:
  KvLayout layout_of(const LayerCache& cache) const {
    return {plan_.num_kv_heads, plan_.head_dim, static_cast<int>(dtype_size(cache.dtype))};
  }

  /// Weights are copied into one block, one behind the other: huge pages make a decode step, which
  /// streams through it, a tenth faster than the small pages of a mapped file. A model too large
  /// for that stays mapped, but for weights that come in several parts.
  void gather_weights() {
    std::size_t total = 0;
    for (const PlanWeight& weight : plan_.weights) total += padded_bytes(weight);
    const bool copy_all =
        total <= static_cast<std::size_t>(physical_memory()) / kLargestCopiedShare;
    std::vector<std::size_t> offsets;
    std::size_t copied = 0;
    for (const PlanWeight& weight : plan_.weights) {
      offsets.push_back(copied);
      if (copy_all || weight.parts.size() != 1) copied += padded_bytes(weight);
    }
    weight_block_ = Buffer(copied);
    weights_.resize(plan_.weights.size());
    const auto count = static_cast<std::int64_t>(plan_.weights.size());
    workspace_.pool().parallel_tasks(count, [&](std::int64_t task, int) {
      const auto i = static_cast<std::size_t>(task);
      const PlanWeight& weight = plan_.weights[i];
      if (!copy_all && weight.parts.size() == 1) {
        weights_[i] = {weight.dtype, weight.parts[0].bytes.data()};
        return;
      }
      std::byte* to = weight_block_.data() + offsets[i];
      weights_[i] = {weight.dtype, to};
      for (const TensorView& part : weight.parts) {
        if (!part.bytes.empty()) std::memcpy(to, part.bytes.data(), part.bytes.size());
        to += part.bytes.size();
      }
    });
  }
  static std::size_t padded_bytes(const PlanWeight& weight) {
    std::size_t bytes = 0;
    for (const TensorView& part : weight.parts) bytes += part.bytes.size();
    return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }

  WeightView weight(WeightIndex index) const {
    return index == kNone ? WeightView{} : weights_[static_cast<std::size_t>(index)];
  }
  std::int64_t cols(Slot slot) const { return plan_.slot_cols[static_cast<std::size_t>(slot)]; }
  float* data(Slot slot) { return slots_[static_cast<std::size_t>(slot)].as<float>(); }
  std::int64_t rows(Slot slot) const { return rows_[static_cast<std::size_t>(slot)]; }
  void set_rows(Slot slot, std::int64_t rows) { rows_[static_cast<std::size_t>(slot)] = rows; }

  KvCacheView cache_view(std::int32_t layer) {
    const LayerCache& cache = plan_.caches[static_cast<std::size_t>(layer)];
    KvCacheView view;
    view.layout = layout_of(cache);
    view.k = keys_[static_cast<std::size_t>(layer)].data();
    view.v = values_[static_cast<std::size_t>(layer)].data();
    view.scales = {cache.k_scale.data(),
                   cache.v_scale.data(),
                   cache.q_scale.empty() ? nullptr : cache.q_scale.data(),
                   static_cast<int>(cache.k_scale.size()),
                   plan_.k_limit(),
                   plan_.q_limit()};
    return view;
  }

  RopeKvWriteParams rope_params(const Batch& batch) const;
  void embed(const Batch& batch);
  void make_room_for_logits(std::size_t rows);
  std::span<const float> logits_row(std::size_t row);

  void run_step(const Batch& batch, const RmsNormStep& step, TapSink* taps);
  void run_step(const Batch& batch, const LinearStep& step, TapSink* taps);
  void run_step(const Batch& batch, const RopeKvWriteStep& step, TapSink* taps);
  void run_step(const Batch& batch, const AttentionStep& step, TapSink* taps);
  void run_step(const Batch& batch, const SwiGluStep& step, TapSink* taps);
  void run_step(const Batch& batch, const SelectRowsStep& step, TapSink* taps);

  const Plan& plan_;
  const TensorView embedding_;
  const BackendOptions options_;
  Workspace workspace_;
  std::vector<Buffer> keys_, values_;  // per layer
  std::vector<Buffer> slots_;
  Buffer weight_block_;
  std::vector<WeightView> weights_;
  Buffer cos_, sin_;                // of the batch that runs
  std::vector<std::int64_t> rows_;  // per slot, of the batch that runs
  std::size_t num_logits_ = 0;      // rows of the last run
  std::vector<float> tap_values_;
};

RopeKvWriteParams CpuBackend::rope_params(const Batch& batch) const {
  RopeKvWriteParams params;
  params.num_heads = plan_.num_heads;
  params.model_dtype = plan_.model_dtype;
  params.inv_freq = plan_.rope_inv_freq.data();
  params.rope_attention_factor = plan_.rope_attention_factor;
  params.cache.layout = {plan_.num_kv_heads, plan_.head_dim, 1};
  params.sequences = batch.sequences.data();
  params.num_sequences = static_cast<int>(batch.sequences.size());
  return params;
}

void CpuBackend::embed(const Batch& batch) {
  const auto num_rows = static_cast<std::int64_t>(batch.token_ids.size());
  const std::int64_t hidden = plan_.hidden_size;
  const auto* table = embedding_.data<std::uint16_t>();
  float* to = data(plan_.input_slot);
  workspace_.pool().parallel_for(num_rows, 16, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t row = begin; row < end; ++row) {
      f16_to_float(table + batch.token_ids[static_cast<std::size_t>(row)] * hidden,
                   to + row * hidden, static_cast<std::size_t>(hidden));
    }
  });
  rows_.assign(plan_.slot_cols.size(), 0);
  set_rows(plan_.input_slot, num_rows);
}

/// The logits' memory grows to what was wanted at most so far. Throws std::bad_alloc.
void CpuBackend::make_room_for_logits(std::size_t rows) {
  Buffer& buffer = slots_[static_cast<std::size_t>(plan_.logits_slot)];
  const std::size_t bytes = rows * static_cast<std::size_t>(plan_.vocab_size) * sizeof(float);
  if (buffer.size() < bytes) buffer = Buffer(bytes);
}

Status CpuBackend::run(const Batch& batch, TapSink* taps) {
  KV8_TRY(check_batch(plan_, batch, options_));
  num_logits_ = 0;
  if (batch.token_ids.empty()) return {};
  try {
    make_room_for_logits(batch.logits_rows.size());
    embed(batch);
    rope_angles(workspace_, rope_params(batch), cos_.as<float>(), sin_.as<float>());
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      std::visit([&](const auto& s) { run_step(batch, s, taps); }, plan_.steps[i]);
      if (taps == nullptr || !taps->wants_values()) continue;
      const Slot out = written_slot(plan_.steps[i]);
      taps->on_value(step_name(plan_, i), rows(out), cols(out), data(out));
    }
  } catch (const std::bad_alloc&) {
    return capacity_error("not enough memory for the working buffers of a batch of {} tokens",
                          batch.token_ids.size());
  }
  num_logits_ = batch.logits_rows.size();
  return {};
}

std::span<const float> CpuBackend::logits_row(std::size_t row) {
  const auto vocab = static_cast<std::size_t>(plan_.vocab_size);
  return {data(plan_.logits_slot) + row * vocab, vocab};
}

Status CpuBackend::read_logits(std::span<float> logits) {
  const std::size_t count = num_logits_ * static_cast<std::size_t>(plan_.vocab_size);
  KV8_CHECK(logits.size() == count, "room for {} logits of {}", logits.size(), count);
  if (count > 0) std::memcpy(logits.data(), data(plan_.logits_slot), count * sizeof(float));
  return {};
}

Status CpuBackend::sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) {
  KV8_CHECK(rows.size() == num_logits_ && tokens.size() == num_logits_,
            "{} samples and {} tokens of {} rows", rows.size(), tokens.size(), num_logits_);
  for (std::size_t i = 0; i < rows.size(); ++i) tokens[i] = sample_row(logits_row(i), rows[i]);
  return {};
}

void CpuBackend::run_step(const Batch&, const RmsNormStep& step, TapSink*) {
  set_rows(step.out, rows(step.in));
  rms_norm(workspace_, {data(step.in), weight(step.weight), data(step.out), rows(step.in),
                        cols(step.in), step.eps});
}

void CpuBackend::run_step(const Batch&, const LinearStep& step, TapSink*) {
  set_rows(step.out, rows(step.in));
  if (rows(step.in) == 0) return;
  linear(workspace_, {data(step.in), weight(step.weight), weight(step.bias),
                      step.residual == kNone ? nullptr : data(step.residual), data(step.out),
                      rows(step.in), cols(step.in), cols(step.out)});
}

void CpuBackend::run_step(const Batch& batch, const RopeKvWriteStep& step, TapSink* taps) {
  set_rows(step.q_out, rows(step.qkv));
  RopeKvWriteParams params = rope_params(batch);
  params.qkv = data(step.qkv);
  params.q_out = data(step.q_out);
  params.q_norm = weight(step.q_norm);
  params.k_norm = weight(step.k_norm);
  params.norm_eps = step.norm_eps;
  params.cache = cache_view(step.layer);
  const RopeAngles angles{cos_.as<float>(), sin_.as<float>()};
  if (taps == nullptr) return rope_kv_write(workspace_, params, angles, nullptr);
  const std::int64_t num_rows = rows(step.qkv);
  const std::int64_t q_values = num_rows * plan_.num_heads * plan_.head_dim;
  const std::int64_t kv_values = num_rows * plan_.num_kv_heads * plan_.head_dim;
  tap_values_.resize(static_cast<std::size_t>(q_values + 2 * kv_values));
  float* q = tap_values_.data();
  const QkvTap tap{q, q + q_values, q + q_values + kv_values};
  rope_kv_write(workspace_, params, angles, &tap);
  taps->on_qkv(step.layer, num_rows, tap.q, tap.k, tap.v);
}

void CpuBackend::run_step(const Batch& batch, const AttentionStep& step, TapSink*) {
  set_rows(step.out, rows(step.q));
  attention(workspace_, {data(step.q), data(step.out), plan_.num_heads, plan_.softmax_scale,
                         cache_view(step.layer), batch.sequences.data(),
                         static_cast<int>(batch.sequences.size())});
}

void CpuBackend::run_step(const Batch&, const SwiGluStep& step, TapSink*) {
  set_rows(step.out, rows(step.gate_up));
  swiglu(workspace_, {data(step.gate_up), data(step.out), rows(step.gate_up), cols(step.out)});
}

void CpuBackend::run_step(const Batch& batch, const SelectRowsStep& step, TapSink*) {
  const std::int64_t width = cols(step.in);
  const float* from = data(step.in);
  float* to = data(step.out);
  for (const std::int32_t row : batch.logits_rows) {
    std::memcpy(to, from + row * width, static_cast<std::size_t>(width) * sizeof(float));
    to += width;
  }
  set_rows(step.out, static_cast<std::int64_t>(batch.logits_rows.size()));
}

Status CpuBackend::copy_page(std::int32_t from, std::int32_t to) {
  KV8_CHECK(from >= 0 && from < options_.num_pages && to >= 0 && to < options_.num_pages,
            "pages {} and {} of {}", from, to, options_.num_pages);
  if (from == to) return {};
  for (std::size_t layer = 0; layer < keys_.size(); ++layer) {
    const KvLayout layout = layout_of(plan_.caches[layer]);
    const auto bytes = static_cast<std::size_t>(layout.page_elements() * layout.elem_bytes);
    for (Buffer* buffer : {&keys_[layer], &values_[layer]}) {
      std::memcpy(buffer->data() + bytes * static_cast<std::size_t>(to),
                  buffer->data() + bytes * static_cast<std::size_t>(from), bytes);
    }
  }
  return {};
}

/// Bytes of the caches and of the activations.
std::pair<ByteCount, ByteCount> needed_bytes(const Plan& plan, const BackendOptions& options) {
  ByteCount caches, activations;
  caches.add(plan.kv_bytes_per_token(), kPageTokens, options.num_pages);
  for (const std::int32_t cols : plan.slot_cols) {
    activations.add(options.max_rows, cols, sizeof(float));
  }
  activations.add(options.max_rows, plan.head_dim, sizeof(float));
  return {caches, activations};
}

}  // namespace

std::int64_t cpu_page_memory(const Plan& plan, const BackendOptions& options) {
  const ByteCount activations = needed_bytes(plan, options).second;
  return activations.left_of(physical_memory() - weight_bytes(plan));
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const Plan& plan, const TensorView& embedding,
                                                  const BackendOptions& options) {
  KV8_TRY(validate(plan));
  KV8_TRY(check_embedding(plan, embedding));
  if (options.num_pages <= 0 || options.max_rows <= 0) {
    return usage_error("{} KV pages and {} rows: both must be positive", options.num_pages,
                       options.max_rows);
  }
  const auto [caches, activations] = needed_bytes(plan, options);
  const auto too_large = [&caches = caches, &activations = activations] {
    return capacity_error(
        "the KV cache needs {} bytes and the activations {} bytes, more than this machine has "
        "({} bytes); use fewer KV pages (capacity, batch size) or shorter inputs",
        caches.text(), activations.text(), physical_memory());
  };
  if (!caches.fits(physical_memory()) || !activations.fits(physical_memory())) return too_large();
  try {
    auto backend = std::make_unique<CpuBackend>(plan, embedding, options);
    backend->allocate();
    return std::unique_ptr<Backend>(std::move(backend));
  } catch (const std::bad_alloc&) {
    return too_large();
  }
}

}  // namespace kv8::cpu
