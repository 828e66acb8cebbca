#include "cuda/engine/engine_memory.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "base/progress.h"
#include "cuda/attention/attention.h"
#include "cuda/dense/sample/launch.h"
#include "cuda/engine/batch_image.h"
#include "cuda/engine/device.h"
#include "cuda/engine/products.h"
#include "cuda/kv_write/launch.h"

namespace kv8::cuda_engine {
namespace {

constexpr std::size_t kNowhere = ~std::size_t{0};
/// What the driver takes for kernels, graphs and the library's handle once they are used.
constexpr std::int64_t kDriverBytes = std::int64_t{512} << 20;

std::size_t bytes_of(const PlanWeight& weight) {
  std::size_t bytes = 0;
  for (const TensorView& part : weight.parts) bytes += part.bytes.size();
  return bytes;
}

bool same_bytes(const PlanWeight& weight, const TensorView& tensor) {
  return weight.dtype == tensor.dtype && weight.parts.size() == 1 &&
         std::ranges::equal(weight.parts[0].shape, tensor.shape) &&
         weight.parts[0].bytes.size() == tensor.bytes.size() &&
         std::memcmp(weight.parts[0].bytes.data(), tensor.bytes.data(), tensor.bytes.size()) == 0;
}

KvLayout layout_of(const Plan& plan, const LayerCache& cache) {
  return {plan.num_kv_heads, plan.head_dim, static_cast<int>(dtype_size(cache.dtype))};
}

std::size_t page_bytes(const Plan& plan, const LayerCache& cache) {
  const KvLayout layout = layout_of(plan, cache);
  return static_cast<std::size_t>(layout.page_elements() * layout.elem_bytes);
}

int table_width(const BackendOptions& options) {
  return static_cast<int>(std::max<std::int64_t>(1, pages_for_tokens(options.max_sequence_tokens)));
}

int rope_positions(const Plan& plan, const BackendOptions& options) {
  std::int64_t positions = std::max<std::int64_t>(1, options.max_sequence_tokens);
  if (plan.max_positions > 0) positions = std::min<std::int64_t>(positions, plan.max_positions);
  return static_cast<int>(positions);
}

Result<std::size_t> decode_bytes(const Plan& plan, const BackendOptions& options) {
  DecodeArgs args;
  args.num_heads = plan.num_heads;
  args.num_kv_heads = plan.num_kv_heads;
  args.head_dim = plan.head_dim;
  args.max_pages = table_width(options);
  args.softmax_scale = plan.softmax_scale;
  args.batch = static_cast<int>(options.max_sequences);
  return decode_workspace_bytes(args);
}

class LayoutMaker {
 public:
  LayoutMaker(const Plan& plan, const Program& program, const BackendOptions& options)
      : plan_(plan), program_(program), options_(options) {}

  Result<EngineLayout> make(const TensorView* embedding) {
    add_weights(embedding);
    layout_.weight_bytes = static_cast<std::int64_t>(arena_.total());
    const std::size_t before_pages = arena_.total();
    add_pages();
    layout_.page_bytes = static_cast<std::int64_t>(arena_.total() - before_pages);
    const std::size_t before_activations = arena_.total();
    KV8_TRY(add_activations());
    layout_.activation_bytes = static_cast<std::int64_t>(arena_.total() - before_activations);
    layout_.total = static_cast<std::int64_t>(arena_.total());
    return std::move(layout_);
  }

 private:
  void add_weights(const TensorView* embedding) {
    layout_.embedding = arena_.add(static_cast<std::size_t>(plan_.vocab_size) *
                                   static_cast<std::size_t>(plan_.hidden_size) * 2);
    layout_.bias_f32.assign(plan_.weights.size(), kNowhere);
    for (std::size_t i = 0; i < plan_.weights.size(); ++i) {
      const PlanWeight& weight = plan_.weights[i];
      const bool shared = embedding != nullptr && same_bytes(weight, *embedding);
      if (shared) layout_.shares_embedding = static_cast<std::int32_t>(i);
      layout_.weights.push_back(shared ? layout_.embedding : arena_.add(bytes_of(weight)));
    }
    for (const Step& step : plan_.steps) {
      const auto* linear = std::get_if<LinearStep>(&step);
      if (linear == nullptr || linear->bias == kNone) continue;
      const auto bias = static_cast<std::size_t>(linear->bias);
      layout_.bias_f32[bias] =
          arena_.add(static_cast<std::size_t>(plan_.weights[bias].shape[0]) * 4);
    }
  }

  void add_pages() {
    const auto pages = static_cast<std::size_t>(options_.num_pages) + 1;  // one for padding
    for (const LayerCache& cache : plan_.caches) {
      layout_.k_pages.push_back(arena_.add(page_bytes(plan_, cache) * pages));
      layout_.v_pages.push_back(arena_.add(page_bytes(plan_, cache) * pages));
    }
  }

  Status add_activations() {
    const auto rows = static_cast<std::size_t>(options_.max_rows);
    const auto logits = static_cast<std::size_t>(options_.max_logits_rows);
    const auto sequences = static_cast<std::size_t>(options_.max_sequences);
    for (std::size_t slot = 0; slot < plan_.slot_cols.size(); ++slot) {
      const bool is_logits = static_cast<Slot>(slot) == plan_.logits_slot;
      layout_.slots.push_back(
          arena_.add((is_logits ? logits : rows) * static_cast<std::size_t>(plan_.slot_cols[slot]) *
                     static_cast<std::size_t>(program_.slot_bytes[slot])));
    }
    const auto angles = static_cast<std::size_t>(rope_positions(plan_, options_)) *
                        static_cast<std::size_t>(plan_.head_dim / 2) * 4;
    layout_.cos = arena_.add(angles);
    layout_.sin = arena_.add(angles);
    for (const LayerCache& cache : plan_.caches) {
      const bool fp8 = cache.dtype == DType::kF8E4M3;
      const std::size_t bytes = cache.k_scale.size() * 4;
      layout_.k_scale.push_back(fp8 ? arena_.add(bytes) : kNowhere);
      layout_.v_scale.push_back(fp8 ? arena_.add(bytes) : kNowhere);
      layout_.q_scale.push_back(fp8_queries(cache) ? arena_.add(bytes) : kNowhere);
      const auto heads = static_cast<std::size_t>(plan_.num_heads + 2 * plan_.num_kv_heads);
      layout_.head_scales.push_back(
          fp8 && cache.k_scale.size() > 1 ? arena_.add(heads * sizeof(KvScale)) : kNowhere);
    }
    layout_.control = arena_.add(
        4 * max_control_words(options_.max_rows, options_.max_sequences, options_.max_logits_rows));
    layout_.page_table =
        arena_.add(4 * sequences * static_cast<std::size_t>(table_width(options_)));
    layout_.decode_workspace = arena_.add(KV8_TRY(decode_bytes(plan_, options_)));
    layout_.product_workspace = arena_.add(kProductWorkspaceBytes);
    layout_.scheduler = arena_.add(2 * sizeof(std::uint32_t));
    layout_.sample_workspace =
        arena_.add(sample_workspace_bytes(static_cast<int>(options_.max_logits_rows)));
    layout_.sample_settings = arena_.add(logits * sizeof(SampleSettings));
    layout_.sample_bias = arena_.add(logits * kMaxBiasEntries * sizeof(SampleBias));
    layout_.sample_tokens = arena_.add(logits * sizeof(SampleToken));
    layout_.sample_top = arena_.add(logits * kSampleMaxLogprobs * sizeof(SampleTop));
    layout_.page_pools = arena_.add(2 * plan_.caches.size() * sizeof(PagePool));
    layout_.page_pair = arena_.add(sizeof(PagePair));
    return {};
  }

  const Plan& plan_;
  const Program& program_;
  const BackendOptions& options_;
  ArenaLayout arena_;
  EngineLayout layout_;
};

Status to_device(void* to, const void* from, std::size_t bytes) {
  return cuda_ok(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the GPU");
}

/// One line that says what is needed, what there is and what would fit.
Error does_not_fit(const Plan& plan, const EngineLayout& layout, std::int64_t free) {
  const std::int64_t rest = layout.total - layout.page_bytes + kDriverBytes;
  const std::int64_t page = plan.kv_bytes_per_token() * kPageTokens;
  const std::int64_t pages = std::max<std::int64_t>(0, (free - rest) / page - 1);
  const std::string advice =
      pages > 0 ? fmt::format("a KV cache of {} tokens ({} bytes: --kvCacheMemory) would fit",
                              pages * kPageTokens, pages * page)
                : std::string("it does not fit with any KV cache");
  return capacity_error(
      "the engine needs {} of GPU memory ({} weights, {} KV pages, {} activations and working "
      "memory, {} for the driver), {} are free; {}",
      gib(layout.total + kDriverBytes), gib(layout.weight_bytes), gib(layout.page_bytes),
      gib(layout.activation_bytes), gib(kDriverBytes), gib(free), advice);
}

}  // namespace

Result<EngineLayout> layout_engine(const Plan& plan, const Program& program,
                                   const TensorView* embedding, const BackendOptions& options) {
  return LayoutMaker(plan, program, options).make(embedding);
}

Result<std::int64_t> bytes_for_pages(const Plan& plan, const Program& program,
                                     const BackendOptions& options) {
  BackendOptions none = options;
  none.num_pages = 0;
  const EngineLayout layout = KV8_TRY(layout_engine(plan, program, nullptr, none));
  const std::int64_t free = KV8_TRY(free_memory());
  const std::int64_t left = free - layout.total - kDriverBytes;
  if (left >= plan.kv_bytes_per_token() * kPageTokens) return left;
  return capacity_error(
      "the engine needs {} of GPU memory without any KV page ({} weights, {} activations and "
      "working memory, {} for the driver), {} are free",
      gib(layout.total + kDriverBytes), gib(layout.weight_bytes), gib(layout.activation_bytes),
      gib(kDriverBytes), gib(free));
}

Result<std::unique_ptr<EngineMemory>> EngineMemory::make(const Plan& plan, const Program& program,
                                                         const TensorView& embedding,
                                                         const BackendOptions& options) {
  std::unique_ptr<EngineMemory> memory(new EngineMemory);
  memory->layout_ = KV8_TRY(layout_engine(plan, program, &embedding, options));
  const std::int64_t free = KV8_TRY(free_memory());
  if (memory->layout_.total + kDriverBytes > free) {
    return does_not_fit(plan, memory->layout_, free);
  }
  memory->arena_ = KV8_TRY(Memory::on_device(static_cast<std::size_t>(memory->layout_.total)));
  memory->positions_ = rope_positions(plan, options);
  memory->page_table_width_ = table_width(options);
  memory->num_pages_ = options.num_pages + 1;
  KV8_TRY(memory->upload(plan, embedding));
  KV8_TRY(memory->upload_scales(plan));
  KV8_TRY(memory->upload_pools(plan));
  // Steps run in a stream that does not wait for the default one, where copies from pageable memory
  // and fills may still be under way after their calls have returned.
  KV8_TRY(cuda_ok(cudaStreamSynchronize(cudaStreamLegacy), "copying to the GPU"));
  return memory;
}

Status EngineMemory::upload(const Plan& plan, const TensorView& embedding) {
  KV8_TRY(
      to_device(arena_.data() + layout_.embedding, embedding.bytes.data(), embedding.bytes.size()));
  for (std::size_t i = 0; i < plan.weights.size(); ++i) {
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    const PlanWeight& weight = plan.weights[i];
    if (static_cast<std::int32_t>(i) == layout_.shares_embedding) continue;
    std::byte* to = arena_.data() + layout_.weights[i];
    for (const TensorView& part : weight.parts) {
      KV8_TRY(to_device(to, part.bytes.data(), part.bytes.size()));
      to += part.bytes.size();
    }
    if (layout_.bias_f32[i] == kNowhere) continue;
    std::vector<float> values;
    for (const TensorView& part : weight.parts) {
      const std::vector<float> piece = KV8_TRY(to_float(part));
      values.insert(values.end(), piece.begin(), piece.end());
    }
    KV8_TRY(to_device(arena_.data() + layout_.bias_f32[i], values.data(), values.size() * 4));
  }
  const RopeAngleTable angles =
      make_rope_angles({plan.rope_inv_freq, plan.rope_attention_factor}, positions_);
  KV8_TRY(to_device(arena_.data() + layout_.cos, angles.cos.data(), angles.cos.size() * 4));
  KV8_TRY(to_device(arena_.data() + layout_.sin, angles.sin.data(), angles.sin.size() * 4));
  // Working memory that its kernels expect to find zeroed.
  const auto zero = [&](std::size_t from, std::size_t to) {
    return cuda_ok(cudaMemset(arena_.data() + from, 0, to - from), "zeroing");
  };
  KV8_TRY(zero(layout_.decode_workspace, layout_.product_workspace));
  return zero(layout_.scheduler, layout_.sample_settings);
}

Status EngineMemory::upload_scales(const Plan& plan) {
  for (std::size_t layer = 0; layer < plan.caches.size(); ++layer) {
    const LayerCache& cache = plan.caches[layer];
    const std::size_t bytes = cache.k_scale.size() * 4;
    if (layout_.k_scale[layer] == kNowhere) continue;
    KV8_TRY(to_device(arena_.data() + layout_.k_scale[layer], cache.k_scale.data(), bytes));
    KV8_TRY(to_device(arena_.data() + layout_.v_scale[layer], cache.v_scale.data(), bytes));
    if (layout_.head_scales[layer] != kNowhere) {
      const KvScale q = make_kv_scale(fp8_queries(cache) ? cache.q_scale[0] : 1.0f);
      std::vector<KvScale> heads(static_cast<std::size_t>(plan.num_heads), q);
      for (float scale : cache.k_scale) heads.push_back(make_kv_scale(scale));
      for (float scale : cache.v_scale) heads.push_back(make_kv_scale(scale));
      KV8_TRY(to_device(arena_.data() + layout_.head_scales[layer], heads.data(),
                        heads.size() * sizeof(KvScale)));
    }
    if (layout_.q_scale[layer] == kNowhere) continue;
    const std::vector<float> q_scale(cache.k_scale.size(), cache.q_scale[0]);
    KV8_TRY(to_device(arena_.data() + layout_.q_scale[layer], q_scale.data(), bytes));
  }
  return {};
}

Status EngineMemory::upload_pools(const Plan& plan) {
  std::vector<PagePool> pools;
  for (std::size_t layer = 0; layer < plan.caches.size(); ++layer) {
    const auto bytes = static_cast<std::int64_t>(page_bytes(plan, plan.caches[layer]));
    pools.push_back({arena_.data() + layout_.k_pages[layer], bytes});
    pools.push_back({arena_.data() + layout_.v_pages[layer], bytes});
  }
  return to_device(arena_.data() + layout_.page_pools, pools.data(),
                   pools.size() * sizeof(PagePool));
}

const void* EngineMemory::weight(WeightIndex index) const {
  return index == kNone ? nullptr
                        : arena_.data() + layout_.weights[static_cast<std::size_t>(index)];
}

const float* EngineMemory::bias_f32(WeightIndex index) const {
  if (index == kNone) return nullptr;
  return arena_.at<float>(layout_.bias_f32[static_cast<std::size_t>(index)]);
}

const float* EngineMemory::scale(const std::vector<std::size_t>& offsets,
                                 std::int32_t layer) const {
  const std::size_t at = offsets[static_cast<std::size_t>(layer)];
  return at == kNowhere ? nullptr : arena_.at<float>(at);
}

const KvScale* EngineMemory::head_scales(std::int32_t layer) const {
  const std::size_t at = layout_.head_scales[static_cast<std::size_t>(layer)];
  return at == kNowhere ? nullptr : arena_.at<KvScale>(at);
}

std::string EngineMemory::text() const {
  return fmt::format("{} weights, {} KV pages, {} activations and working memory",
                     gib(layout_.weight_bytes), gib(layout_.page_bytes),
                     gib(layout_.activation_bytes));
}

}  // namespace kv8::cuda_engine
