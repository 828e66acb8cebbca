// What a benchmark reports of its samples.
#pragma once

#include <vector>

namespace kv8::bench {

/// Median, 10th and 90th percentile over the repeats.
struct Spread {
  double median = 0, p10 = 0, p90 = 0;
};
Spread spread_of(std::vector<double> samples);

}  // namespace kv8::bench
