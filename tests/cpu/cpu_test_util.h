// Random ops, caches full of NaN and shuffled pages for the tests of the CPU backend.
#pragma once

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "formats/float_formats.h"
#include "ops/params.h"

namespace kv8::testing {

using Random = std::mt19937;

inline std::vector<float> random_floats(Random& random, std::int64_t count,
                                        float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// Values rounded to a weight type, with the memory behind the view.
struct TestWeight {
  TestWeight() = default;
  TestWeight(DType weight_dtype, std::vector<float> values) : dtype(weight_dtype) {
    if (dtype == DType::kF32) {
      floats = std::move(values);
      return;
    }
    for (const float value : values) {
      halves.push_back(dtype == DType::kF16 ? f16_from_float(value) : bf16_from_float(value));
    }
  }
  WeightView view() const {
    if (dtype == DType::kF32) return {dtype, floats.empty() ? nullptr : floats.data()};
    return {dtype, halves.empty() ? nullptr : halves.data()};
  }
  float at(std::size_t i) const {
    if (dtype == DType::kF32) return floats[i];
    return dtype == DType::kF16 ? f16_to_float(halves[i]) : bf16_to_float(halves[i]);
  }
  DType dtype = DType::kF32;
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
};

/// Runs `check` for every instruction set that this processor and this build have.
template <typename Check>
void for_each_target(const Check& check) {
  const std::int64_t supported = hwy::SupportedTargets();
  for (int bit = 0; bit < 62; ++bit) {
    const std::int64_t target = std::int64_t{1} << bit;
    if ((supported & target) == 0) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

/// One layer's cache, every byte a NaN of its type until written.
class TestCache {
 public:
  TestCache(KvLayout layout, int pages, bool per_head_scales, bool quantized_q, Random& random)
      : bytes_(static_cast<std::size_t>(layout.page_elements() * layout.elem_bytes * pages), 0x7F),
        v_bytes_(bytes_) {
    const int count = per_head_scales ? layout.num_kv_heads : 1;
    for (int i = 0; i < count; ++i) {
      // Neighbouring heads differ by a factor of 10.
      const float wide = i % 2 == 0 ? 1.0f : 10.0f;
      k_scales_.push_back(wide * 0.003f * static_cast<float>(1 + random() % 100));
      v_scales_.push_back(0.03f / wide * static_cast<float>(1 + random() % 10));
    }
    view.layout = layout;
    view.k = bytes_.data();
    view.v = v_bytes_.data();
    view.scales = {k_scales_.data(), v_scales_.data(), quantized_q ? &q_scale_ : nullptr, count};
  }
  TestCache(const TestCache&) = delete;
  TestCache& operator=(const TestCache&) = delete;
  const std::vector<std::uint8_t>& k_bytes() const { return bytes_; }
  const std::vector<std::uint8_t>& v_bytes() const { return v_bytes_; }
  void copy_bytes(const TestCache& other) {
    bytes_ = other.bytes_;
    v_bytes_ = other.v_bytes_;
    view.k = bytes_.data();
    view.v = v_bytes_.data();
  }
  KvCacheView view;

 private:
  std::vector<std::uint8_t> bytes_, v_bytes_;
  std::vector<float> k_scales_, v_scales_;
  float q_scale_ = 0.013f;
};

/// A ragged batch over shuffled pages.
struct TestBatch {
  struct Part {
    int past_tokens, num_tokens;
  };
  TestBatch(const std::vector<Part>& parts, Random& random) {
    for (const Part& part : parts) {
      tables.emplace_back(static_cast<std::size_t>(
          pages_for_tokens(std::int64_t{part.past_tokens} + part.num_tokens)));
      num_pages += static_cast<int>(tables.back().size());
    }
    std::vector<std::int32_t> pages(static_cast<std::size_t>(num_pages));
    std::iota(pages.begin(), pages.end(), 0);
    std::shuffle(pages.begin(), pages.end(), random);
    std::size_t next = 0;
    for (std::size_t s = 0; s < parts.size(); ++s) {
      for (std::int32_t& page : tables[s]) page = pages[next++];
      slices.push_back({rows, parts[s].num_tokens, parts[s].past_tokens, tables[s].data()});
      rows += parts[s].num_tokens;
    }
  }
  std::vector<std::vector<std::int32_t>> tables;
  std::vector<SequenceSlice> slices;
  std::int64_t rows = 0;
  int num_pages = 0;
};

}  // namespace kv8::testing
