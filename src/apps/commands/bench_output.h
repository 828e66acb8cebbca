// How the results of `kv8 bench model` are shown and written.
#pragma once

#include <string>

#include "base/json.h"
#include "bench/model_bench.h"

namespace kv8::apps {

/// `rows` have geometry, phase, batch, context, weight_dtype, kv_dtype, ms, tokens_per_s,
/// roofline_fraction and more: docs/benchmarks.md.
Json model_bench_json(const bench::ModelBenchResult& result, const std::string& command);
std::string model_bench_table(const bench::ModelBenchResult& result);

/// Writes to the file, or to standard output for "-".
Status write_json_output(const std::string& file, const Json& value);

}  // namespace kv8::apps
