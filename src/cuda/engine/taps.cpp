#include "cuda/engine/taps.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/engine/device.h"
#include "cuda/engine/tap_kernel.h"
#include "formats/simd_codec.h"

namespace kv8::cuda_engine {

TapObserver::TapObserver(const Plan& plan, const Program& program, const EngineMemory& memory,
                         const StepRunner& runner, const Batch& batch, TapSink& sink,
                         cudaStream_t stream)
    : plan_(plan),
      program_(program),
      memory_(memory),
      runner_(runner),
      sink_(sink),
      stream_(stream) {
  for (const SequenceSlice& slice : batch.sequences) {
    for (std::int32_t i = 0; i < slice.num_tokens; ++i) {
      positions_.push_back(slice.past_tokens + i);
    }
  }
}

Status TapObserver::after(std::size_t step, const void* result, int rows) {
  if (const auto* rope = std::get_if<RopeKvWriteStep>(&plan_.steps[step]); rope != nullptr) {
    KV8_TRY(show_qkv(*rope, rows));
  }
  return sink_.wants_values() ? show_value(step, result, rows) : Status();
}

Status TapObserver::show_qkv(const RopeKvWriteStep& step, int rows) {
  const auto count = static_cast<std::size_t>(rows) *
                     static_cast<std::size_t>(plan_.slot_cols[static_cast<std::size_t>(step.qkv)]);
  const std::size_t values_at = (positions_.size() * 4 + 255) / 256 * 256;
  if (device_.data() == nullptr) {
    device_ = KV8_TRY(Memory::on_device(values_at + count * 4));
    KV8_TRY(cuda_ok(cudaMemcpyAsync(device_.data(), positions_.data(), positions_.size() * 4,
                                    cudaMemcpyHostToDevice, stream_),
                    "positions"));
  }
  QkvTapArgs args;
  args.qkv = runner_.data(step.qkv);
  args.positions = device_.at<std::int32_t>(0);
  args.cos = memory_.cos();
  args.sin = memory_.sin();
  args.q_norm = memory_.weight(step.q_norm);
  args.k_norm = memory_.weight(step.k_norm);
  args.norm_eps = step.norm_eps;
  args.out = device_.at<float>(values_at);
  args.rows = rows;
  args.num_heads = plan_.num_heads;
  args.num_kv_heads = plan_.num_kv_heads;
  args.head_dim = plan_.head_dim;
  args.bf16 = program_.bf16;
  KV8_TRY(cuda_ok(launch_qkv_tap(args, stream_), "qkv tap"));
  values_.resize(count);
  KV8_TRY(
      cuda_ok(cudaMemcpyAsync(values_.data(), args.out, count * 4, cudaMemcpyDeviceToHost, stream_),
              "qkv tap"));
  KV8_TRY(cuda_ok(cudaStreamSynchronize(stream_), "qkv tap"));
  const std::size_t head_values =
      static_cast<std::size_t>(rows) * static_cast<std::size_t>(plan_.head_dim);
  const float* q = values_.data();
  const float* k = q + head_values * static_cast<std::size_t>(plan_.num_heads);
  const float* v = k + head_values * static_cast<std::size_t>(plan_.num_kv_heads);
  sink_.on_qkv(step.layer, rows, q, k, v);
  return {};
}

Status TapObserver::show_value(std::size_t step, const void* result, int rows) {
  const Slot slot = written_slot(plan_.steps[step]);
  const std::int64_t cols = plan_.slot_cols[static_cast<std::size_t>(slot)];
  const auto count = static_cast<std::size_t>(rows * cols);
  const ValueType type = program_.steps[step].out;
  const auto* rope = std::get_if<RopeKvWriteStep>(&plan_.steps[step]);
  const LayerCache* cache =
      rope == nullptr ? nullptr : &plan_.caches[static_cast<std::size_t>(rope->layer)];
  const bool fp8 = cache != nullptr && fp8_queries(*cache);
  raw_.resize(count * (type == ValueType::kF32 ? 4 : fp8 ? 1 : 2));
  KV8_TRY(cuda_ok(
      cudaMemcpyAsync(raw_.data(), result, raw_.size(), cudaMemcpyDeviceToHost, stream_), "tap"));
  KV8_TRY(cuda_ok(cudaStreamSynchronize(stream_), "tap"));
  values_.resize(count);
  if (type == ValueType::kF32) {
    std::copy_n(reinterpret_cast<const float*>(raw_.data()), count, values_.data());
  } else if (fp8) {
    e4m3_to_float(reinterpret_cast<const std::uint8_t*>(raw_.data()), values_.data(), count);
    for (float& value : values_) value *= cache->q_scale[0];
  } else if (type == ValueType::kModel && program_.bf16) {
    bf16_to_float(reinterpret_cast<const std::uint16_t*>(raw_.data()), values_.data(), count);
  } else {
    f16_to_float(reinterpret_cast<const std::uint16_t*>(raw_.data()), values_.data(), count);
  }
  sink_.on_value(step_name(plan_, step), rows, cols, values_.data());
  return {};
}

}  // namespace kv8::cuda_engine
