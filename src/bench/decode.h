// Decode attention over FP16 and FP8 caches, beside the memory's read bandwidth in the same run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::bench {

struct DecodeShapeSpec {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0, batch = 0, context = 0;
};
/// "heads,kv_heads,head_dim,batch,context", each a positive number.
Result<DecodeShapeSpec> parse_decode_shape(const std::string& text);

struct DecodeBenchOptions {
  std::vector<DecodeShapeSpec> shapes;  ///< empty: decode_bench_shapes()
  int repeats = 30;                     ///< launches whose median counts, L2 emptied before each
  double settle_ms = 500.0;  ///< FP16 and FP8 in turn before timing, so that clocks settle
};
struct DecodeTimes {
  double fp16_us = 0, fp8_us = 0;
  double read_us = 0;  ///< a plain kernel reading as many bytes as the FP8 cache has
};
/// `dirty`: L2 is full of lines that the launch has to write back, as other libraries' published
/// times have it. `clean`: it is not, as where a kernel that read weights came before.
struct DecodeBenchRow {
  DecodeShapeSpec shape;
  std::int64_t kv_bytes_fp8 = 0;
  DecodeTimes dirty, clean;
  double fp16_error = 0, fp8_error = 0;  ///< against double precision on the dequantized inputs
};
struct DecodeBenchResult {
  std::string device;
  double hbm_read_gb_s = 0, hbm_read_clean_gb_s = 0;  ///< 4 GiB, plain kernel
  std::vector<DecodeBenchRow> rows;
  std::vector<DecodeShapeSpec> left_out;  ///< do not fit in the device's memory
};

/// Batch 1, 8, 64 x context 1k, 4k, 32k, 128k of (32, 8, 128) and (32, 8, 64).
std::vector<DecodeShapeSpec> decode_bench_shapes();
Result<DecodeBenchResult> bench_decode(const DecodeBenchOptions& options);
std::string decode_bench_table(const DecodeBenchResult& result);
std::string decode_bench_json(const DecodeBenchResult& result, const std::string& command);
/// Speed-up of FP8 over FP16 for every shape, as a bar chart.
std::string decode_bench_svg(const DecodeBenchResult& result);

}  // namespace kv8::bench
