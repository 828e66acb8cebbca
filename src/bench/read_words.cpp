// The ceiling of reading: a sum over memory with the processor's widest vectors.
#include "bench/read_words.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/read_words.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kv8::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

std::uint64_t sum_words_target(const std::uint64_t* words, std::int64_t count) {
  const hn::ScalableTag<std::uint64_t> d;
  constexpr int kChains = 4;  // so that latency does not bound the loop
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sums[kChains];
  for (auto& sum : sums) sum = hn::Zero(d);
  std::int64_t i = 0;
  for (; i + kChains * lanes <= count; i += kChains * lanes) {
    for (int c = 0; c < kChains; ++c) {
      sums[c] = hn::Add(sums[c], hn::LoadU(d, words + i + c * lanes));
    }
  }
  const auto sum = hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  std::uint64_t total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < count; ++i) total += words[i];
  return total;
}

}  // namespace kv8::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kv8::bench {

HWY_EXPORT(sum_words_target);

std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count) {
  return HWY_DYNAMIC_DISPATCH(sum_words_target)(words, count);
}

}  // namespace kv8::bench
#endif  // HWY_ONCE
