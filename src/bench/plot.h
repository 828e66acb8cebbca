// Bar charts of ratios, as SVG.
#pragma once

#include <string>
#include <vector>

namespace kv8::bench {

struct RatioBar {
  std::string label;
  double ratio = 0;  ///< 1 is the line to beat
};

/// One horizontal bar a row, from 0, with a line at 1.
std::string ratio_chart_svg(const std::string& title, const std::vector<RatioBar>& bars);

}  // namespace kv8::bench
