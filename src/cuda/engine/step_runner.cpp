#include "cuda/engine/step_runner.h"

#include <algorithm>
#include <numbers>
#include <utility>

#include "cuda/attention/attention.h"
#include "cuda/dense/gemv/launch.h"
#include "cuda/dense/rows/launch.h"
#include "cuda/engine/device.h"
#include "cuda/kv_write/launch.h"

namespace kv8::cuda_engine {

/// What one run keeps track of.
struct StepRunner::Run {
  const StepShape& shape;
  ControlOffsets at;
  cudaStream_t stream;
  bool fuse;                                  ///< off where every value is looked at
  int rows;                                   ///< of the values at hand
  std::size_t index = 0;                      ///< of the step at hand
  const RmsNormStep* waiting_norm = nullptr;  ///< left to the next product
  bool swiglu_done = false;                   ///< the product before did it
};

namespace {

/// FP16 scores where the plan's exponent shift bounds them, for every head.
ScoreType scores_of(const Plan& plan, const LayerCache& layer) {
  if (!fp8_queries(layer)) return ScoreType::kF32;
  const auto fits = [&](float k_scale) {
    const float logit_scale =
        layer.q_scale[0] * k_scale * plan.softmax_scale * std::numbers::log2e_v<float>;
    return score_type_for(plan.q_limit(), plan.k_limit(), plan.head_dim, logit_scale) ==
           ScoreType::kF16;
  };
  return std::ranges::all_of(layer.k_scale, fits) ? ScoreType::kF16 : ScoreType::kF32;
}

/// Of Q, K and V, where a layer's heads share them.
std::array<KvScale, 3> write_scales_of(const LayerCache& layer) {
  std::array<KvScale, 3> scales;
  if (layer.dtype != DType::kF8E4M3) return scales;
  if (fp8_queries(layer)) scales[0] = make_kv_scale(layer.q_scale[0]);
  scales[1] = make_kv_scale(layer.k_scale[0]);
  scales[2] = make_kv_scale(layer.v_scale[0]);
  return scales;
}

}  // namespace

Result<StepRunner> StepRunner::create(const Plan& plan, const Program& program,
                                      const EngineMemory& memory, Products& products) {
  StepRunner runner(plan, program, memory, products);
  for (int rows = 1; rows <= kGemvMaxRows; ++rows) {
    runner.max_norm_cols_[static_cast<std::size_t>(rows)] = KV8_TRY(gemv_max_norm_columns(rows));
  }
  runner.slots_.resize(plan.slot_cols.size());
  for (const LayerCache& layer : plan.caches) {
    runner.score_types_.push_back(scores_of(plan, layer));
    runner.write_scales_.push_back(write_scales_of(layer));
  }
  return runner;
}

Status StepRunner::run(const StepShape& shape, cudaStream_t stream, StepObserver* observer) {
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    slots_[slot] = memory_->slot(static_cast<Slot>(slot));
  }
  Run run{shape, ControlOffsets(shape), stream, observer == nullptr, shape.rows};
  KV8_TRY(embed(run));
  for (run.index = 0; run.index < plan_->steps.size(); ++run.index) {
    const Step& current = plan_->steps[run.index];
    KV8_TRY(std::visit([&](const auto& typed) { return step(run, typed); }, current));
    if (run.rows == 0) break;  // nobody wants logits
    if (observer != nullptr) {
      KV8_TRY(observer->after(run.index, data(written_slot(current)), run.rows));
    }
  }
  return {};
}

Status StepRunner::embed(Run& run) {
  EmbedArgs args;
  args.ids = memory_->control() + run.at.ids;
  args.table = memory_->embedding();
  args.out = static_cast<float*>(data(plan_->input_slot));
  args.rows = run.rows;
  args.cols = plan_->hidden_size;
  args.vocab = plan_->vocab_size;
  return launch_embed(args, run.stream);
}

Status StepRunner::step(Run& run, const RmsNormStep& step) {
  const bool few = run.rows <= kGemvMaxRows;
  if (run.fuse && few && program_->steps[run.index].norm_into_product &&
      cols(step.in) <= max_norm_cols_[static_cast<std::size_t>(run.rows)]) {
    run.waiting_norm = &step;
    return {};
  }
  RmsNormArgs args;
  args.x = static_cast<const float*>(data(step.in));
  args.weight = memory_->weight(step.weight);
  args.out = data(step.out);
  args.rows = run.rows;
  args.cols = cols(step.in);
  args.eps = step.eps;
  args.bf16 = program_->bf16;
  args.weight_f32 = is_f32(step.weight);
  args.dependent_launch = run.fuse;
  return launch_rms_norm(args, run.stream);
}

Status StepRunner::step(Run& run, const LinearStep& step) {
  return run.rows <= kGemvMaxRows ? gemv(run, step) : product(run, step);
}

Status StepRunner::gemv(Run& run, const LinearStep& step) {
  GemvArgs args;
  args.x = data(step.in);
  args.weight = memory_->weight(step.weight);
  args.bias = memory_->weight(step.bias);
  if (step.residual != kNone) args.residual = static_cast<const float*>(data(step.residual));
  args.out = data(step.out);
  args.rows = run.rows;
  args.in = cols(step.in);
  args.out_features = cols(step.out);
  args.bf16 = program_->bf16;
  args.f32_out = program_->steps[run.index].out == ValueType::kF32;
  args.dependent_launch = run.fuse;
  if (const RmsNormStep* norm = std::exchange(run.waiting_norm, nullptr); norm != nullptr) {
    args.x = data(norm->in);
    args.norm_weight = memory_->weight(norm->weight);
    args.norm_eps = norm->eps;
    args.norm_weight_f32 = is_f32(norm->weight);
  }
  if (run.fuse && program_->steps[run.index].product_into_swiglu) {
    const auto& next = std::get<SwiGluStep>(plan_->steps[run.index + 1]);
    args.swiglu = true;
    args.out = data(next.out);
    args.out_features = cols(next.out);
    run.swiglu_done = true;
  }
  return launch_gemv(args, run.stream);
}

Status StepRunner::product(Run& run, const LinearStep& step) {
  ProductArgs args;
  const bool f32_out = program_->steps[run.index].out == ValueType::kF32;
  args.shape = {run.rows, cols(step.in),      cols(step.out),
                f32_out,  step.bias != kNone, step.residual != kNone};
  args.x = data(step.in);
  args.weight = memory_->weight(step.weight);
  args.bias = f32_out ? memory_->bias_f32(step.bias) : memory_->weight(step.bias);
  if (step.residual != kNone) args.residual = static_cast<const float*>(data(step.residual));
  args.out = data(step.out);
  return products_->run(args, run.stream);
}

Status StepRunner::step(Run& run, const RopeKvWriteStep& step) {
  const LayerCache& layer = cache(step.layer);
  KvWriteArgs args;
  args.qkv = data(step.qkv);
  args.q_out = data(step.q_out);
  args.k_pool = memory_->k_pages(step.layer);
  args.v_pool = memory_->v_pages(step.layer);
  args.page_table = memory_->page_table();
  args.cu_rows = memory_->control() + run.at.cu_rows;
  args.kv_lens = memory_->control() + run.at.kv_lens;
  args.cos = memory_->cos();
  args.sin = memory_->sin();
  args.q_norm = memory_->weight(step.q_norm);
  args.k_norm = memory_->weight(step.k_norm);
  args.norm_eps = step.norm_eps;
  std::ranges::copy(write_scales_[static_cast<std::size_t>(step.layer)], args.scales);
  args.head_scales = memory_->head_scales(step.layer);
  args.q_limit = plan_->q_limit();
  args.k_limit = plan_->k_limit();
  args.batch = run.shape.sequences();
  args.rows = run.rows;
  args.max_rows_per_sequence = run.shape.prefill_sequences > 0 ? run.shape.max_q_len : 1;
  args.num_heads = plan_->num_heads;
  args.num_kv_heads = plan_->num_kv_heads;
  args.head_dim = plan_->head_dim;
  args.max_pages = memory_->page_table_width();
  args.bf16 = program_->bf16;
  args.fp8_cache = layer.dtype == DType::kF8E4M3;
  args.fp8_q = fp8_queries(layer);
  args.dependent_launch = run.fuse;
  return launch_kv_write(args, run.stream);
}

Status StepRunner::step(Run& run, const AttentionStep& step) {
  const StepShape& shape = run.shape;
  if (shape.decode_sequences > 0) {
    KV8_TRY(decode(run, step));
  }
  if (shape.prefill_sequences == 0) return {};
  return prefill(run, step);
}

Status StepRunner::decode(const Run& run, const AttentionStep& step) {
  const LayerCache& layer = cache(step.layer);
  DecodeArgs args;
  args.q = data(step.q);
  args.k_pool = memory_->k_pages(step.layer);
  args.v_pool = memory_->v_pages(step.layer);
  args.out = data(step.out);
  args.page_table = memory_->page_table();
  args.kv_lens = memory_->control() + run.at.kv_lens;
  args.q_scale = memory_->q_scale(step.layer);
  args.k_scale = memory_->k_scale(step.layer);
  args.v_scale = memory_->v_scale(step.layer);
  args.scale_per_head = layer.k_scale.size() > 1;
  args.workspace = memory_->decode_workspace();
  args.batch = run.shape.decode_sequences;
  args.num_heads = plan_->num_heads;
  args.num_kv_heads = plan_->num_kv_heads;
  args.head_dim = plan_->head_dim;
  args.max_pages = memory_->page_table_width();
  args.softmax_scale = plan_->softmax_scale;
  args.kv_type = layer.dtype == DType::kF8E4M3 ? KvType::kE4m3 : KvType::kF16;
  args.q_type = fp8_queries(layer) ? KvType::kE4m3 : KvType::kF16;
  args.out_type = program_->bf16 ? OutType::kBf16 : OutType::kF16;
  args.dependent_launch = run.fuse;
  return launch_decode(args, run.stream);
}

Status StepRunner::prefill(const Run& run, const AttentionStep& step) {
  const StepShape& shape = run.shape;
  const LayerCache& layer = cache(step.layer);
  const int decoded = shape.decode_sequences;
  const std::size_t row_values = static_cast<std::size_t>(decoded) *
                                 static_cast<std::size_t>(plan_->num_heads * plan_->head_dim);
  PrefillArgs args;
  args.q = static_cast<const std::byte*>(data(step.q)) + row_values * (fp8_queries(layer) ? 1 : 2);
  args.k_pool = memory_->k_pages(step.layer);
  args.v_pool = memory_->v_pages(step.layer);
  args.out = static_cast<std::byte*>(data(step.out)) + row_values * 2;
  args.page_table = memory_->page_table() + decoded * memory_->page_table_width();
  args.cu_seqlens_q = memory_->control() + run.at.prefill_cu;
  args.kv_lens = memory_->control() + run.at.kv_lens + decoded;
  args.q_scale = memory_->q_scale(step.layer);
  args.k_scale = memory_->k_scale(step.layer);
  args.v_scale = memory_->v_scale(step.layer);
  args.scale_per_head = layer.k_scale.size() > 1;
  args.scheduler = memory_->scheduler();
  args.batch = shape.prefill_sequences;
  args.num_heads = plan_->num_heads;
  args.num_kv_heads = plan_->num_kv_heads;
  args.head_dim = plan_->head_dim;
  args.total_q_tokens = shape.rows - decoded;
  args.max_q_len = shape.max_q_len;
  args.max_kv_len = shape.max_kv_len;
  args.num_pages = memory_->num_pages();
  args.max_pages = memory_->page_table_width();
  args.softmax_scale = plan_->softmax_scale;
  args.kv_type = layer.dtype == DType::kF8E4M3 ? KvType::kE4m3 : KvType::kF16;
  args.q_type = fp8_queries(layer) ? KvType::kE4m3 : KvType::kF16;
  args.out_type = program_->bf16 ? OutType::kBf16 : OutType::kF16;
  args.score_type = score_types_[static_cast<std::size_t>(step.layer)];
  const PreparedPrefill prepared = KV8_TRY(prepare_prefill(args));
  return prepared.launch(run.stream);
}

Status StepRunner::step(Run& run, const SwiGluStep& step) {
  if (std::exchange(run.swiglu_done, false)) return {};
  SwiGluArgs args;
  args.gate_up = data(step.gate_up);
  args.out = data(step.out);
  args.rows = run.rows;
  args.cols = cols(step.out);
  args.bf16 = program_->bf16;
  args.dependent_launch = run.fuse;
  return launch_swiglu(args, run.stream);
}

Status StepRunner::step(Run& run, const SelectRowsStep& step) {
  const int x_rows = std::exchange(run.rows, run.shape.logits_rows);
  if (run.rows == 0) return {};
  if (run.shape.all_rows) {  // nothing to leave out: the two slots change places
    std::swap(slots_[static_cast<std::size_t>(step.in)],
              slots_[static_cast<std::size_t>(step.out)]);
    return {};
  }
  SelectRowsArgs args;
  args.x = data(step.in);
  args.ids = memory_->control() + run.at.logits_rows;
  args.out = data(step.out);
  args.x_rows = x_rows;
  args.rows = run.rows;
  args.row_bytes = std::int64_t{cols(step.in)} * 4;
  args.dependent_launch = run.fuse;
  return launch_select_rows(args, run.stream);
}

}  // namespace kv8::cuda_engine
