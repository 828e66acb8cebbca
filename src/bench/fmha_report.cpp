// The fmha result as a table, as JSON and as a plot.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/fmha.h"
#include "bench/plot.h"

namespace kv8::bench {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + '"';
}

/// The best FP16 (or FP8) time of the peers, 0 where there is none.
double best_peer(const FmhaRow& row, bool fp8) {
  double best = 0;
  for (const char* column : kPeerColumns) {
    const auto found = row.peers.find(column);
    const bool is_fp8 = std::string_view(column).find("fp8") != std::string_view::npos;
    if (found == row.peers.end() || is_fp8 != fp8) continue;
    best = best == 0 ? found->second : std::min(best, found->second);
  }
  return best;
}

/// FP8's gain over the best FP16 time known: our own or a peer's.
double speed_up(const FmhaRow& row) {
  const double peer = best_peer(row, false);
  const double best = peer == 0 ? row.fp16.median_us : std::min(peer, row.fp16.median_us);
  return best / row.fp8.median_us;
}

bool of_the_table(const FmhaRow& row) { return row.shape.seq_len <= 4096; }

struct Summary {
  int shapes = 0, wins = 0, peer_shapes = 0, peer_wins = 0;
  double log_gain = 0, log_peer_gain = 0;
};

Summary summarise(const FmhaResult& result, int head_dim) {
  Summary s;
  for (const FmhaRow& row : result.rows) {
    if (!of_the_table(row) || row.shape.head_dim != head_dim) continue;
    const double gain = speed_up(row), peer = best_peer(row, true);
    ++s.shapes;
    s.wins += gain > 1.0;
    s.log_gain += std::log(gain);
    if (peer > 0) {
      ++s.peer_shapes;
      s.peer_wins += peer > row.fp8.median_us;
      s.log_peer_gain += std::log(peer / row.fp8.median_us);
    }
  }
  return s;
}

}  // namespace

std::string fmha_table(const FmhaResult& result) {
  std::string out = fmt::format(
      "{}: causal prefill, cold L2, medians of event pairs (p10-p90); FP8 wgmma ceiling {:.0f} "
      "TFLOP/s\n{:<18} {:>12} {:>3} {:>6} {:>10} {:>10} {:>17} {:>9} {:>6} {:>7} {:>6} {:>5} {:>9} "
      "{:>9} {:>9} {:>6}\n",
      result.gpu, result.wgmma_fp8_tflops, "model", "heads", "bs", "seq", "FP16 us", "FP8 us",
      "p10-p90", "saved us", "saved", "TFLOP/s", "ofmax", "score", "error", "peer FP16", "peer FP8",
      "MHz");
  for (const FmhaRow& row : result.rows) {
    const FmhaShape& s = row.shape;
    const double saved = row.fp16.median_us - row.fp8.median_us;
    out += fmt::format(
        "{:<18} {:>12} {:>3} {:>6} {:>10.2f} {:>10.2f} {:>17} {:>9.2f} {:>5.1f}% {:>7.0f} "
        "{:>6} "
        "{:>5} {:>9.2e} {:>9.2f} {:>9.2f} {:>6.0f}\n",
        s.model, fmt::format("{},{},{}", s.num_heads, s.num_kv_heads, s.head_dim), s.batch,
        s.seq_len, row.fp16.median_us, row.fp8.median_us,
        fmt::format("{:.2f}-{:.2f}", row.fp8.p10_us, row.fp8.p90_us), saved,
        100.0 * saved / row.fp16.median_us, row.fp8_tflops,
        result.wgmma_fp8_tflops > 0
            ? fmt::format("{:.1f}%", 100.0 * row.fp8_tflops / result.wgmma_fp8_tflops)
            : "-",
        row.score_type, row.error, best_peer(row, false), best_peer(row, true), row.sm_clock_mhz);
    if (row.f16_queries_us > 0) {
      out += fmt::format("{:>52.2f} us with FP16 queries over the FP8 cache\n", row.f16_queries_us);
    }
  }
  if (!result.cudnn_note.empty()) out += result.cudnn_note + '\n';
  for (int head_dim : {128, 64}) {
    const Summary s = summarise(result, head_dim);
    if (s.shapes == 0) continue;
    out += fmt::format(
        "head_dim {}: FP8 beats the best FP16 in {} of {} shapes, geometric mean {:.3f}x", head_dim,
        s.wins, s.shapes, std::exp(s.log_gain / s.shapes));
    if (s.peer_shapes > 0) {
      out += fmt::format("; the best FP8 peer in {} of {}, {:.3f}x", s.peer_wins, s.peer_shapes,
                         std::exp(s.log_peer_gain / s.peer_shapes));
    }
    out += '\n';
  }
  return out;
}

std::string fmha_json(const FmhaResult& result, const std::string& command) {
  std::string out =
      fmt::format("{{\n  \"gpu\": {},\n  \"command\": {},\n", quoted(result.gpu), quoted(command));
  out += fmt::format("  \"wgmma_fp8_tflops\": {:.1f},\n  \"rows\": [", result.wgmma_fp8_tflops);
  const char* separator = "\n";
  for (const FmhaRow& row : result.rows) {
    const FmhaShape& s = row.shape;
    out += fmt::format(
        "{}    {{\"model\": {}, \"num_heads\": {}, \"num_kv_heads\": {}, \"head_dim\": {}, "
        "\"batch\": {}, \"seq_len\": {}, \"fp16_us\": {:.2f}, \"fp8_us\": {:.2f}, \"fp8_tflops\": "
        "{:.1f}",
        separator, quoted(s.model), s.num_heads, s.num_kv_heads, s.head_dim, s.batch, s.seq_len,
        row.fp16.median_us, row.fp8.median_us, row.fp8_tflops);
    for (const char* column : kPeerColumns) {
      const auto found = row.peers.find(column);
      out += found == row.peers.end() ? fmt::format(", \"{}\": null", column)
                                      : fmt::format(", \"{}\": {:.2f}", column, found->second);
    }
    if (row.f16_queries_us > 0) {
      out += fmt::format(", \"fp8_f16_queries_us\": {:.2f}", row.f16_queries_us);
    }
    out += fmt::format(
        ", \"sm_clock_mhz\": {:.0f}, \"score_type\": {}, \"error\": {:.3e}, \"fp16_p10_us\": "
        "{:.2f}, "
        "\"fp16_p90_us\": {:.2f}, \"fp8_p10_us\": {:.2f}, \"fp8_p90_us\": {:.2f}, \"fp16_kernel\": "
        "{}, \"fp8_kernel\": {}}}",
        row.sm_clock_mhz, quoted(row.score_type), row.error, row.fp16.p10_us, row.fp16.p90_us,
        row.fp8.p10_us, row.fp8.p90_us, quoted(row.fp16_kernel), quoted(row.fp8_kernel));
    separator = ",\n";
  }
  return out + "\n  ]\n}\n";
}

std::string fmha_svg(const FmhaResult& result) {
  std::vector<RatioBar> bars;
  for (const FmhaRow& row : result.rows) {
    const FmhaShape& s = row.shape;
    bars.push_back({fmt::format("{} ({},{},{}) batch {} length {}", s.model, s.num_heads,
                                s.num_kv_heads, s.head_dim, s.batch, s.seq_len),
                    speed_up(row)});
  }
  return ratio_chart_svg(
      fmt::format("Causal prefill attention on {}: time of the best FP16 kernel / time of kv8's "
                  "FP8 kernel",
                  result.gpu),
      bars);
}

}  // namespace kv8::bench
