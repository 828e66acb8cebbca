#include "exec/reference_backend.h"

#include <algorithm>
#include <cstring>

#include "formats/float_formats.h"
#include "ops/reference.h"

namespace kv8::exec {

ReferenceBackend::ReferenceBackend(const Plan& plan, TensorView embedding, std::int32_t num_pages,
                                   std::int64_t max_rows)
    : plan_(plan), embedding_(std::move(embedding)), num_pages_(num_pages), max_rows_(max_rows) {
  for (const LayerCache& cache : plan.caches) {
    LayerPages pages;
    pages.layout = {plan.num_kv_heads, plan.head_dim, static_cast<int>(dtype_size(cache.dtype))};
    const auto bytes = static_cast<std::size_t>(pages.layout.page_elements() *
                                                pages.layout.elem_bytes * num_pages);
    // NaN in FP16 (0x7F7F) and in E4M3 (0x7F).
    pages.k.assign(bytes, std::byte{0x7F});
    pages.v.assign(bytes, std::byte{0x7F});
    layers_.push_back(std::move(pages));
  }
}

Status ReferenceBackend::run(const Batch& batch, TapSink*) {
  const auto num_rows = static_cast<std::int64_t>(batch.token_ids.size());
  KV8_CHECK(num_rows <= max_rows_, "{} rows", num_rows);
  Running running{&batch, num_rows, {}};
  running.slots.resize(plan_.slot_cols.size());
  float* input = slot(running, plan_.input_slot);
  const auto* table = embedding_.data<std::uint16_t>();
  for (const std::int32_t id : batch.token_ids) {
    for (std::int64_t i = 0; i < plan_.hidden_size; ++i) {
      *input++ = f16_to_float(table[id * plan_.hidden_size + i]);
    }
  }
  for (const Step& step : plan_.steps) {
    std::visit([&](const auto& typed) { this->step(running, typed); }, step);
  }
  const std::vector<float>& result = running.slots[static_cast<std::size_t>(plan_.logits_slot)];
  const auto count = batch.logits_rows.size() * static_cast<std::size_t>(plan_.vocab_size);
  logits_.assign(result.begin(), result.begin() + static_cast<std::ptrdiff_t>(count));
  return {};
}

Status ReferenceBackend::read_logits(std::span<float> logits) {
  KV8_CHECK(logits.size() == logits_.size(), "{} logits of {}", logits.size(), logits_.size());
  std::ranges::copy(logits_, logits.begin());
  return {};
}

Status ReferenceBackend::sample(std::span<const SampleRow> rows, std::span<SampledToken> tokens) {
  const auto vocab = static_cast<std::size_t>(plan_.vocab_size);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    tokens[i] = sample_row(std::span<const float>(logits_).subspan(i * vocab, vocab), rows[i]);
  }
  return {};
}

Status ReferenceBackend::copy_page(std::int32_t from, std::int32_t to) {
  for (LayerPages& layer : layers_) {
    const auto bytes =
        static_cast<std::size_t>(layer.layout.page_elements() * layer.layout.elem_bytes);
    for (std::vector<std::byte>* memory : {&layer.k, &layer.v}) {
      std::memcpy(memory->data() + static_cast<std::size_t>(to) * bytes,
                  memory->data() + static_cast<std::size_t>(from) * bytes, bytes);
    }
  }
  return {};
}

float* ReferenceBackend::slot(Running& running, Slot slot) {
  std::vector<float>& values = running.slots[static_cast<std::size_t>(slot)];
  values.resize(static_cast<std::size_t>(std::max<std::int64_t>(running.rows, 1) * cols(slot)));
  return values.data();
}

WeightView ReferenceBackend::weight(WeightIndex index) const {
  if (index == kNone) return {};
  const PlanWeight& weight = plan_.weights[static_cast<std::size_t>(index)];
  KV8_CHECK(weight.parts.size() == 1, "weight `{}` has {} parts", weight.name, weight.parts.size());
  return {weight.dtype, weight.parts[0].bytes.data()};
}

KvCacheView ReferenceBackend::cache(std::int32_t layer) {
  LayerPages& pages = layers_[static_cast<std::size_t>(layer)];
  const LayerCache& info = plan_.caches[static_cast<std::size_t>(layer)];
  KvCacheView view{pages.layout, pages.k.data(), pages.v.data(), {}};
  if (info.dtype == DType::kF8E4M3) {
    view.scales = {info.k_scale.data(),
                   info.v_scale.data(),
                   info.q_scale.empty() ? nullptr : info.q_scale.data(),
                   static_cast<int>(info.k_scale.size()),
                   plan_.k_limit(),
                   plan_.q_limit()};
  }
  return view;
}

void ReferenceBackend::step(Running& running, const RmsNormStep& step) {
  reference::rms_norm({slot(running, step.in), weight(step.weight), slot(running, step.out),
                       running.rows, cols(step.in), step.eps});
}

void ReferenceBackend::step(Running& running, const LinearStep& step) {
  const float* residual = step.residual == kNone ? nullptr : slot(running, step.residual);
  reference::linear({slot(running, step.in), weight(step.weight), weight(step.bias), residual,
                     slot(running, step.out), running.rows, cols(step.in), cols(step.out)});
}

void ReferenceBackend::step(Running& running, const RopeKvWriteStep& step) {
  RopeKvWriteParams params;
  params.qkv = slot(running, step.qkv);
  params.q_out = slot(running, step.q_out);
  params.num_heads = plan_.num_heads;
  params.model_dtype = plan_.model_dtype;
  params.q_norm = weight(step.q_norm);
  params.k_norm = weight(step.k_norm);
  params.norm_eps = step.norm_eps;
  params.inv_freq = plan_.rope_inv_freq.data();
  params.rope_attention_factor = plan_.rope_attention_factor;
  params.cache = cache(step.layer);
  params.sequences = running.batch->sequences.data();
  params.num_sequences = static_cast<int>(running.batch->sequences.size());
  reference::rope_kv_write(params);
}

void ReferenceBackend::step(Running& running, const AttentionStep& step) {
  AttentionParams params;
  params.q = slot(running, step.q);
  params.out = slot(running, step.out);
  params.num_heads = plan_.num_heads;
  params.softmax_scale = plan_.softmax_scale;
  params.cache = cache(step.layer);
  params.sequences = running.batch->sequences.data();
  params.num_sequences = static_cast<int>(running.batch->sequences.size());
  reference::attention(params);
}

void ReferenceBackend::step(Running& running, const SwiGluStep& step) {
  reference::swiglu(
      {slot(running, step.gate_up), slot(running, step.out), running.rows, cols(step.out)});
}

void ReferenceBackend::step(Running& running, const SelectRowsStep& step) {
  const float* in = slot(running, step.in);
  float* out = slot(running, step.out);
  for (const std::int32_t row : running.batch->logits_rows) {
    out = std::copy_n(in + row * cols(step.in), cols(step.in), out);
  }
  running.rows = static_cast<std::int64_t>(running.batch->logits_rows.size());
}

}  // namespace kv8::exec
