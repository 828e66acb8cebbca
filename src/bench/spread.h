// What a benchmark reports of its samples.
#pragma once

#include <vector>

namespace kv8::bench {

/// Median, 10th and 90th percentile over the repeats.
struct Spread {
  double median = 0, p10 = 0, p90 = 0;
};
Spread spread_of(std::vector<double> samples);

inline double gb_per_s(double bytes, double us) { return bytes / us * 1e-3; }

}  // namespace kv8::bench
