#include "bench/plot.h"

#include <fmt/format.h>

#include <algorithm>

namespace kv8::bench {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<' || c == '&') {
      out += c == '<' ? "&lt;" : "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

std::string ratio_chart_svg(const std::string& title, const std::vector<RatioBar>& bars) {
  constexpr int kRowHeight = 16, kLeft = 250, kScale = 260, kTop = 48;
  double widest = 2.0;
  for (const RatioBar& bar : bars) widest = std::max(widest, bar.ratio);
  const int height = kTop + kRowHeight * static_cast<int>(bars.size()) + 16;
  const int width = kLeft + static_cast<int>(kScale * widest) + 60;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
      "<text x=\"8\" y=\"18\" font-size=\"14\">{}</text>\n",
      width, height, escaped(title));
  for (double tick = 0.0; tick <= widest; tick += 0.5) {
    const double x = kLeft + kScale * tick;
    out += fmt::format(
        "<line x1=\"{0:.0f}\" y1=\"{1}\" x2=\"{0:.0f}\" y2=\"{2}\" stroke=\"{3}\"/>"
        "<text x=\"{0:.0f}\" y=\"{4}\" text-anchor=\"middle\">{5:.1f}x</text>\n",
        x, kTop - 4, height - 12, tick == 1.0 ? "black" : "#ccc", kTop - 8, tick);
  }
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double ratio = bars[i].ratio;
    const int y = kTop + kRowHeight * static_cast<int>(i);
    out += fmt::format(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>"
        "<rect x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>"
        "<text x=\"{:.1f}\" y=\"{}\">{:.2f}x</text>\n",
        kLeft - 6, y + 11, escaped(bars[i].label), kLeft, y + 2, kScale * ratio, kRowHeight - 4,
        ratio >= 1.0 ? "#3b7dbf" : "#c0504d", kLeft + kScale * ratio + 4, y + 11, ratio);
  }
  return out + "</svg>\n";
}

}  // namespace kv8::bench
