#include "apps/commands/bench_output.h"

#include <cstdio>

namespace kv8::apps {
namespace {

Json spread_json(const bench::Spread& spread) {
  return {{"median", spread.median}, {"p10", spread.p10}, {"p90", spread.p90}};
}

}  // namespace

Json model_bench_json(const bench::ModelBenchResult& result) {
  Json rows = Json::array();
  for (const auto& row : result.rows) {
    rows.push_back({{"kv_dtype", row.kv_dtype},
                    {"prefill_tokens_per_s", spread_json(row.prefill_tokens_per_s)},
                    {"decode_tokens_per_s", spread_json(row.decode_tokens_per_s)},
                    {"prefill_of_gemm", row.prefill_of_gemm},
                    {"decode_of_bandwidth", row.decode_of_bandwidth},
                    {"kv_bytes_per_token", row.kv_bytes_per_token}});
  }
  return {{"machine", result.machine},
          {"threads", result.threads},
          {"weight_bytes", result.weight_bytes},
          {"read_gb_per_s", result.read_gb_per_s},
          {"gemm_gflops", result.gemm_gflops},
          {"prompt_tokens", result.prompt_tokens},
          {"decode_tokens", result.decode_tokens},
          {"rows", rows}};
}

std::string model_bench_table(const bench::ModelBenchResult& result) {
  std::string text = fmt::format(
      "{}; weights {:.1f} MB, reading them {:.1f} GB/s, sgemm on the model's shapes {:.0f} "
      "GFLOP/s\n"
      "{:<8}{:>20}{:>12}{:>20}{:>15}{:>12}\n",
      result.machine, static_cast<double>(result.weight_bytes) * 1e-6, result.read_gb_per_s,
      result.gemm_gflops, "KV", fmt::format("prefill {} tok/s", result.prompt_tokens), "of sgemm",
      "decode tok/s", "of bandwidth", "KV B/token");
  for (const auto& row : result.rows) {
    text += fmt::format("{:<8}{:>20.1f}{:>11.0f}%{:>20.1f}{:>14.0f}%{:>12}\n", row.kv_dtype,
                        row.prefill_tokens_per_s.median, 100 * row.prefill_of_gemm,
                        row.decode_tokens_per_s.median, 100 * row.decode_of_bandwidth,
                        row.kv_bytes_per_token);
  }
  return text;
}

Status write_json_output(const std::string& file, const Json& value) {
  if (file != "-") return write_json_file(file, value);
  fmt::print("{}\n", value.dump(2));
  return {};
}

}  // namespace kv8::apps
