#include "apps/commands/bench_output.h"

#include <fmt/format.h>

namespace kv8::apps {
namespace {

using bench::KernelKind;
using bench::ModelBenchResult;
using bench::ModelBenchRow;

double kind_roofline_ms(const ModelBenchRow& row, KernelKind kind) {
  if (kind == KernelKind::kLinear) return row.roofline.linear_ms;
  return kind == KernelKind::kAttention ? row.roofline.attention_ms : 0.0;
}

double kind_ms(const ModelBenchRow& row, KernelKind kind) {
  double ms = 0;
  for (const bench::KernelTime& kernel : row.split.kernels) {
    if (kernel.kind == kind) ms += kernel.ms;
  }
  return ms;
}

constexpr KernelKind kKinds[] = {KernelKind::kLinear, KernelKind::kAttention, KernelKind::kOther};

void add_split(const ModelBenchRow& row, Json& json) {
  Json kinds = Json::object(), kernels = Json::array();
  for (const KernelKind kind : kKinds) {
    const double ms = kind_ms(row, kind), roofline = kind_roofline_ms(row, kind);
    Json& entry = kinds[bench::kernel_kind_name(kind)];
    entry = {{"ms", ms}};
    if (roofline > 0 && ms > 0) entry["roofline_fraction"] = roofline / ms;
  }
  for (const bench::KernelTime& kernel : row.split.kernels) {
    kernels.push_back({{"name", kernel.name},
                       {"kind", bench::kernel_kind_name(kernel.kind)},
                       {"ms", kernel.ms},
                       {"count", kernel.count}});
  }
  json["kernel_ms"] = row.split.busy_ms;
  json["between_kernels_fraction"] = row.between_kernels();
  json["kinds"] = std::move(kinds);
  json["kernels"] = std::move(kernels);
}

Json row_json(const ModelBenchRow& row, const ModelBenchResult& result) {
  Json json = {{"geometry", result.model},
               {"phase", bench::phase_name(row.point.phase)},
               {"batch", row.point.batch},
               {"context", row.point.context},
               {"weight_dtype", result.weight_dtype},
               {"kv_dtype", row.kv_dtype},
               {"ms", row.ms.median},
               {"ms_p10", row.ms.p10},
               {"ms_p90", row.ms.p90},
               {"tokens_per_s", row.tokens_per_s},
               {"roofline_ms", row.roofline.ms},
               {"roofline_fraction", row.roofline_fraction},
               {"bound", row.roofline.memory_bound ? "memory" : "compute"},
               {"kv_bytes_per_token", row.kv_bytes_per_token},
               {"bytes_read", row.work.weight_bytes + row.work.kv_bytes},
               {"flop", row.work.linear_flop + row.work.attention_flop},
               {"full_memory", row.full_memory},
               {"alternating", row.alternating}};
  if (const ModelBenchRow* fp16 = bench::fp16_beside(result, row); fp16 != nullptr) {
    json["speedup_over_fp16"] = row.tokens_per_s / fp16->tokens_per_s;
  }
  if (row.point.chunk_tokens > 0) json["chunk_tokens"] = row.point.chunk_tokens;
  if (!row.split.kernels.empty()) add_split(row, json);
  return json;
}

std::string split_lines(const ModelBenchRow& row) {
  std::string text = fmt::format("{:>10}", "");
  for (const KernelKind kind : kKinds) {
    const double ms = kind_ms(row, kind), roofline = kind_roofline_ms(row, kind);
    text += fmt::format("{} {:.3f} ms", bench::kernel_kind_name(kind), ms);
    if (roofline > 0 && ms > 0) text += fmt::format(" ({:.0f}% of roofline)", 100 * roofline / ms);
    text += ", ";
  }
  return text + fmt::format("between kernels {:.1f}%\n", 100 * row.between_kernels());
}

/// "1.31x", of FP8 over FP16 in tokens a second; with the memory full, of sequences too.
std::string speedup_text(const ModelBenchRow& row, const ModelBenchRow* fp16) {
  if (fp16 == nullptr) return "";
  std::string text = fmt::format("  {:.2f}x", row.tokens_per_s / fp16->tokens_per_s);
  if (row.full_memory) {
    text += fmt::format(" ({:.2f}x sequences)", static_cast<double>(row.point.batch) /
                                                    static_cast<double>(fp16->point.batch));
  }
  return text;
}

std::string row_line(const ModelBenchRow& row, const ModelBenchRow* fp16) {
  std::string what = bench::phase_name(row.point.phase);
  if (row.point.phase == bench::Phase::kMixed) {
    what += fmt::format("+{}", row.point.chunk_tokens);
  }
  if (row.full_memory) what += ", full";
  return fmt::format("{:<14}{:>6}{:>9}{:>6}{:>11.3f}{:>10.3f}{:>10.3f}{:>13.1f}{:>11.0f}%  {}{}\n",
                     what, row.point.batch, row.point.context, row.kv_dtype, row.ms.median,
                     row.ms.p10, row.ms.p90, row.tokens_per_s, 100 * row.roofline_fraction,
                     row.roofline.memory_bound ? "memory" : "compute", speedup_text(row, fp16));
}

}  // namespace

Json model_bench_json(const ModelBenchResult& result, const std::string& command) {
  Json rows = Json::array();
  for (const ModelBenchRow& row : result.rows) rows.push_back(row_json(row, result));
  return {{"machine", result.machine},
          {"command", command},
          {"geometry", result.model},
          {"backend", result.backend},
          {"weight_bytes", result.weight_bytes},
          {"read_gb_per_s", result.ceilings.read_bytes_per_s * 1e-9},
          {"gemm_tflop_per_s", result.ceilings.flop_per_s * 1e-12},
          {"rows", rows}};
}

std::string model_bench_table(const ModelBenchResult& result) {
  std::string text = fmt::format(
      "{} on {}; weights {:.1f} MB ({}), memory read at {:.1f} GB/s, GEMM on the model's shapes "
      "{:.3f} TFLOP/s\n"
      "{:<14}{:>6}{:>9}{:>6}{:>11}{:>10}{:>10}{:>13}{:>12}\n",
      result.model, result.machine, static_cast<double>(result.weight_bytes) * 1e-6,
      result.weight_dtype, result.ceilings.read_bytes_per_s * 1e-9,
      result.ceilings.flop_per_s * 1e-12, "phase", "batch", "context", "KV", "ms", "p10", "p90",
      "tokens/s", "of roofline");
  for (const ModelBenchRow& row : result.rows) {
    text += row_line(row, bench::fp16_beside(result, row));
    if (!row.split.kernels.empty()) text += split_lines(row);
  }
  return text;
}

Status write_json_output(const std::string& file, const Json& value) {
  if (file != "-") return write_json_file(file, value);
  fmt::print("{}\n", value.dump(2));
  return {};
}

}  // namespace kv8::apps
