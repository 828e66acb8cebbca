#include "bench/cpu_ceilings.h"

#include <cblas.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "base/thread_pool.h"
#include "bench/read_words.h"
#include "tensor/tensor.h"

namespace kv8::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kPasses = 5;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace

double seconds_to_read(std::int64_t bytes, int threads) {
  const std::int64_t count = bytes / 8;
  Buffer buffer(static_cast<std::size_t>(count * 8));
  auto* words = buffer.as<std::uint64_t>();
  ThreadPool pool(threads);
  pool.parallel_for(count, 512, [&](std::int64_t begin, std::int64_t end, int) {
    std::fill(words + begin, words + end, 1);
  });
  volatile std::uint64_t sink = 0;
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    pool.parallel_for(count, 512, [&](std::int64_t begin, std::int64_t end, int) {
      sink = sum_words(words + begin, end - begin);
    });
    best = std::min(best, seconds_since(start));
  }
  return best;
}

double seconds_for_gemms(const std::vector<GemmShape>& shapes, int threads) {
  std::size_t x_size = 0, w_size = 0, y_size = 0;
  for (const GemmShape& s : shapes) {
    x_size = std::max(x_size, static_cast<std::size_t>(s.rows * s.in));
    w_size = std::max(w_size, static_cast<std::size_t>(s.in * s.out));
    y_size = std::max(y_size, static_cast<std::size_t>(s.rows * s.out));
  }
  std::vector<float> x(x_size), w(w_size), y(y_size);
  for (std::size_t i = 0; i < x_size; ++i) x[i] = static_cast<float>(i % 97) * 0.01f - 0.5f;
  for (std::size_t i = 0; i < w_size; ++i) w[i] = static_cast<float>(i % 89) * 0.01f - 0.4f;
  const int before = openblas_get_num_threads();
  openblas_set_num_threads(threads);
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    for (const GemmShape& s : shapes) {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(s.rows),
                  static_cast<int>(s.out), static_cast<int>(s.in), 1.0f, x.data(),
                  static_cast<int>(s.in), w.data(), static_cast<int>(s.in), 0.0f, y.data(),
                  static_cast<int>(s.out));
    }
    best = std::min(best, seconds_since(start));
  }
  openblas_set_num_threads(before);
  return best;
}

std::string machine_text(int threads) {
  std::ifstream info("/proc/cpuinfo");
  std::string line, model = "unknown processor";
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos) {
      model = line.substr(line.find(": ") + 2);
      break;
    }
  }
  return fmt::format("{}, {} thread{}", model, threads, threads == 1 ? "" : "s");
}

}  // namespace kv8::bench
