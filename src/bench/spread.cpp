#include "bench/spread.h"

#include <algorithm>

#include "base/result.h"

namespace kv8::bench {

Spread spread_of(std::vector<double> samples) {
  KV8_CHECK(!samples.empty(), "no samples");
  std::sort(samples.begin(), samples.end());
  const auto at = [&samples](double fraction) {
    return samples[static_cast<std::size_t>(fraction * static_cast<double>(samples.size() - 1) +
                                            0.5)];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

}  // namespace kv8::bench
