// The RoPE + quantize + write kernel with FP16 and FP8 outputs, beside a plain copy in the same
// run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace kv8::bench {

struct WriteShapeSpec {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int tokens = 0;  ///< up to 64: one of each of as many sequences; else of one sequence
};
/// "heads,kv_heads,head_dim,tokens", each a positive number.
Result<WriteShapeSpec> parse_write_shape(const std::string& text);

struct WriteBenchOptions {
  std::vector<WriteShapeSpec> shapes;  ///< empty: write_bench_shapes()
  /// Launches of each kind, L2 emptied before each; up to twelve times as many, until FP8 and FP16
  /// can be told apart by 0.008 us or 0.2%.
  int repeats = 200;
  double settle_ms = 500.0;  ///< FP16 and FP8 in turn before timing, so that clocks settle
};
struct WriteTimes {
  double fp16_us = 0, fp8_us = 0;
  double copy_us = 0;              ///< a plain copy of as many bytes as FP8 reads and writes
  double difference_error_us = 0;  ///< standard error of fp8_us - fp16_us
};
/// `dirty`: L2 is full of lines that the launch has to write back, as the copy bandwidth is
/// measured. `clean`: it is not.
struct WriteBenchRow {
  WriteShapeSpec shape;
  WriteTimes dirty, clean;
  /// Bytes read and written.
  double fp8_bytes() const {
    return 3.0 * shape.tokens * (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  }
};
struct WriteBenchResult {
  std::string device;
  double copy_gb_s = 0;
  std::vector<WriteBenchRow> rows;
};

/// 1 to 32k tokens of (32, 8, 128) and (32, 8, 64).
std::vector<WriteShapeSpec> write_bench_shapes();
Result<WriteBenchResult> bench_write(const WriteBenchOptions& options);
std::string write_bench_table(const WriteBenchResult& result);
std::string write_bench_json(const WriteBenchResult& result, const std::string& command);
/// Speed-up of FP8 over FP16 for every shape, as a bar chart.
std::string write_bench_svg(const WriteBenchResult& result);

}  // namespace kv8::bench
