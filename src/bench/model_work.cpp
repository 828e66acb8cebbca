#include "bench/model_work.h"

#include <algorithm>

namespace kv8::bench {

void StepWork::add(const StepWork& other) {
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  linear_flop += other.linear_flop;
  attention_flop += other.attention_flop;
  attention_speed = other.attention_speed;
}

void StepWork::divide_by(double count) {
  weight_bytes /= count;
  kv_bytes /= count;
  linear_flop /= count;
  attention_flop /= count;
}

std::vector<GemmShape> gemm_shapes(const Plan& plan, std::int64_t rows, std::int64_t logits_rows) {
  std::vector<GemmShape> shapes;
  for (const Step& step : plan.steps) {
    if (std::holds_alternative<SelectRowsStep>(step)) rows = logits_rows;
    if (const auto* linear = std::get_if<LinearStep>(&step)) {
      const Shape& shape = plan.weights[static_cast<std::size_t>(linear->weight)].shape;
      shapes.push_back({rows, shape[1], shape[0]});
    }
  }
  return shapes;
}

double flop_of(std::span<const GemmShape> shapes) {
  double flop = 0;
  for (const GemmShape& s : shapes) {
    flop +=
        2.0 * static_cast<double>(s.rows) * static_cast<double>(s.in) * static_cast<double>(s.out);
  }
  return flop;
}

StepWork work_of(const Plan& plan, std::span<const SequenceSlice> sequences,
                 std::int64_t logits_rows, double attention_speed) {
  StepWork work;
  work.attention_speed = attention_speed;
  work.weight_bytes = static_cast<double>(weight_bytes(plan));
  std::int64_t rows = 0;
  double tokens = 0, pairs = 0;  // of queries and keys
  for (const SequenceSlice& slice : sequences) {
    const double queries = slice.num_tokens, past = slice.past_tokens;
    rows += slice.num_tokens;
    tokens += past + queries;
    pairs += queries * past + queries * (queries + 1) / 2;
  }
  work.kv_bytes = tokens * static_cast<double>(plan.kv_bytes_per_token());
  work.linear_flop = flop_of(gemm_shapes(plan, rows, logits_rows));
  work.attention_flop = pairs * 4.0 * plan.head_dim * plan.num_heads * plan.num_layers;
  return work;
}

Roofline roofline_of(const StepWork& work, const Ceilings& ceilings) {
  const auto read_ms = [&](double bytes) { return bytes / ceilings.read_bytes_per_s * 1e3; };
  const double linear_flop_ms = work.linear_flop / ceilings.flop_per_s * 1e3;
  const double attention_flop_ms =
      work.attention_flop / (ceilings.flop_per_s * work.attention_speed) * 1e3;
  const double memory_ms = read_ms(work.weight_bytes + work.kv_bytes);
  const double compute_ms = linear_flop_ms + attention_flop_ms;
  return {std::max(read_ms(work.weight_bytes), linear_flop_ms),
          std::max(read_ms(work.kv_bytes), attention_flop_ms), std::max(memory_ms, compute_ms),
          memory_ms >= compute_ms};
}

}  // namespace kv8::bench
