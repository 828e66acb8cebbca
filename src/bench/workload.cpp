#include "bench/workload.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "ops/kv_layout.h"

namespace kv8::bench {
namespace {

std::vector<std::int32_t> shuffled_pages(std::int32_t count) {
  std::vector<std::int32_t> pages(static_cast<std::size_t>(count));
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
  return pages;
}

/// Which ids they are does not change the work.
std::int32_t token_at(std::int64_t index, std::int32_t vocab_size) {
  const auto scattered = static_cast<std::uint64_t>(index) * 2654435761u;
  return static_cast<std::int32_t>(scattered % static_cast<std::uint64_t>(vocab_size));
}

class Writer {
 public:
  Writer(std::int32_t num_pages, std::int32_t vocab_size)
      : pages_(shuffled_pages(num_pages)), vocab_size_(vocab_size) {}

  const std::int32_t* table(std::int64_t tokens) {
    const auto count = static_cast<std::size_t>(pages_for_tokens(tokens));
    KV8_CHECK(taken_ + count <= pages_.size(), "{} pages of {}", taken_ + count, pages_.size());
    const auto first = pages_.begin() + static_cast<std::ptrdiff_t>(taken_);
    work_.page_tables.emplace_back(first, first + static_cast<std::ptrdiff_t>(count));
    taken_ += count;
    return work_.page_tables.back().data();
  }

  void add(Call& call, std::int64_t past, std::int64_t count, const std::int32_t* pages,
           bool logits) const {
    SequenceSlice slice;
    slice.first_row = static_cast<std::int64_t>(call.tokens.size());
    slice.num_tokens = static_cast<std::int32_t>(count);
    slice.past_tokens = static_cast<std::int32_t>(past);
    slice.page_table = pages;
    call.sequences.push_back(slice);
    for (std::int64_t i = 0; i < count; ++i) {
      call.tokens.push_back(token_at(past + i + slice.first_row, vocab_size_));
    }
    if (logits) call.logits_rows.push_back(static_cast<std::int32_t>(call.tokens.size()) - 1);
  }

  void add_prefill(const ModelPoint& point) {
    TimedCalls piece;
    for (std::int64_t prompt = 0; prompt < point.batch; ++prompt) {
      const std::int32_t* pages = table(point.context);
      for (std::int64_t past = 0; past < point.context;) {
        const std::int64_t count = std::min(point.chunk_tokens, point.context - past);
        Call& call = piece.emplace_back();
        add(call, past, count, pages, past + count == point.context);
        past += count;
      }
    }
    work_.pieces.push_back(std::move(piece));
  }

  void add_steps(const ModelPoint& point, std::int64_t steps) {
    std::vector<const std::int32_t*> tables;
    for (std::int64_t i = 0; i < point.batch; ++i) tables.push_back(table(point.context));
    const bool mixed = point.phase == Phase::kMixed;
    const std::int32_t* prompt = mixed ? table(point.chunk_tokens) : nullptr;
    for (std::int64_t step = std::max<std::int64_t>(0, point.context - steps); step < point.context;
         ++step) {
      Call call;
      for (const std::int32_t* pages : tables) add(call, step, 1, pages, true);
      if (mixed) add(call, 0, point.chunk_tokens, prompt, true);
      work_.pieces.push_back({std::move(call)});
    }
  }

  Workload take() { return std::move(work_); }

 private:
  std::vector<std::int32_t> pages_;
  std::size_t taken_ = 0;
  std::int32_t vocab_size_;
  Workload work_;
};

}  // namespace

std::string phase_name(Phase phase) {
  if (phase == Phase::kPrefill) return "prefill";
  return phase == Phase::kDecode ? "decode" : "mixed";
}

std::int64_t pages_of(const ModelPoint& point) {
  const std::int64_t pages = point.batch * pages_for_tokens(point.context);
  return point.phase == Phase::kMixed ? pages + pages_for_tokens(point.chunk_tokens) : pages;
}

std::int64_t rows_of(const ModelPoint& point) {
  if (point.phase == Phase::kPrefill) return std::min(point.chunk_tokens, point.context);
  return point.phase == Phase::kMixed ? point.batch + point.chunk_tokens : point.batch;
}

std::int64_t sequences_of(const ModelPoint& point) {
  if (point.phase == Phase::kPrefill) return 1;
  return point.phase == Phase::kMixed ? point.batch + 1 : point.batch;
}

Workload make_workload(const ModelPoint& point, std::int64_t steps, std::int32_t num_pages,
                       std::int32_t vocab_size) {
  Writer writer(num_pages, vocab_size);
  if (point.phase == Phase::kPrefill) {
    writer.add_prefill(point);
  } else {
    writer.add_steps(point, steps);
  }
  return writer.take();
}

}  // namespace kv8::bench
