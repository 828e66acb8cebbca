#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>

#include "cuda/dense/rows/launch.h"
#include "cuda/dense_testing.h"
#include "cuda/gpu.h"
#include "ops/reference.h"

namespace kv8 {
namespace {

using cuda_testing::DeviceArray;
using cuda_testing::ModelType;
using cuda_testing::normal_values;

void expect_launched(const Status& status) {
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

void expect_close(const std::vector<float>& got, const std::vector<float>& want, double unit,
                  const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  int wrong = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double bound = std::abs(want[i]) * (unit + 0x1p-19) + 0x1p-24;  // FP16's subnormals
    const bool same = std::isnan(want[i])
                          ? std::isnan(got[i])
                          : got[i] == want[i] || std::abs(got[i] - want[i]) <= bound;
    if (!same && wrong++ < 3)
      ADD_FAILURE() << what << ", " << i << ": " << got[i] << ", " << want[i];
  }
  EXPECT_EQ(wrong, 0) << what;
}

TEST(DenseRowsTest, RmsNorm) {
  KV8_NEEDS_GPU();
  std::mt19937 random(1);
  const int cases[][2] = {{1, 4096}, {3, 576}, {7, 5}, {8192, 64}, {2, 2047}, {1, 32768}, {5, 1}};
  for (const auto& [rows, cols] : cases) {
    for (int bits = 0; bits < 4; ++bits) {
      const ModelType type(bits & 1);
      const bool weight_f32 = bits & 2;
      const std::vector<float> x = normal_values(std::size_t(rows) * cols, 3.0f, random);
      std::vector<float> weight = normal_values(cols, 1.0f, random);
      if (!weight_f32) weight = type.widen(type.narrow(weight));
      DeviceArray<float> device_x(x), device_f32(weight);
      DeviceArray<std::uint16_t> device_weight(type.narrow(weight)), out(x.size());
      RmsNormArgs a;
      a.x = device_x.get();
      a.weight = weight_f32 ? static_cast<const void*>(device_f32.get()) : device_weight.get();
      a.out = out.get();
      a.rows = rows;
      a.cols = cols;
      a.bf16 = bits & 1;
      a.weight_f32 = weight_f32;
      expect_launched(launch_rms_norm(a, nullptr));
      std::vector<float> want(x.size());
      reference::rms_norm({x.data(), {DType::kF32, weight.data()}, want.data(), rows, cols, a.eps});
      expect_close(type.widen(out.values()), want, type.unit(),
                   std::to_string(rows) + " x " + std::to_string(cols));
    }
  }
}

TEST(DenseRowsTest, SwiGlu) {
  KV8_NEEDS_GPU();
  std::mt19937 random(2);
  const int cases[][2] = {{1, 12288}, {3, 1536}, {7, 5}, {1000, 64}, {2, 2047}};
  for (const auto& [rows, cols] : cases) {
    for (const bool bf16 : {false, true}) {
      const ModelType type(bf16);
      const std::size_t outputs = std::size_t(rows) * cols;
      std::vector<float> x = normal_values(2 * outputs, 5.0f, random);
      const float nasty[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 65504.0f, -65504.0f, -100.0f};
      for (std::size_t i = 0; i < 8 && i < x.size(); ++i) x[i] = nasty[i];
      x = type.widen(type.narrow(x));
      DeviceArray<std::uint16_t> gate_up(type.narrow(x)), out(outputs);
      SwiGluArgs a{gate_up.get(), out.get(), rows, cols, bf16, false};
      expect_launched(launch_swiglu(a, nullptr));
      std::vector<float> want(outputs);
      reference::swiglu({x.data(), want.data(), rows, cols});
      want = type.widen(type.narrow(want));
      // Twice the unit: the reference was rounded, too.
      expect_close(type.widen(out.values()), want, 2 * type.unit(),
                   std::to_string(rows) + " x " + std::to_string(cols));
    }
  }
}

TEST(DenseRowsTest, EmbeddingReadsNothingOutsideItsTable) {
  KV8_NEEDS_GPU();
  std::mt19937 random(3);
  for (const int cols : {1, 6, 576, 4096}) {
    for (const bool bf16 : {false, true}) {
      const ModelType type(bf16);
      const int vocab = 50;
      const std::vector<float> table =
          type.widen(type.narrow(normal_values(std::size_t(vocab) * cols, 1.0f, random)));
      const std::vector<std::int32_t> ids = {49, 0, -1, 7, 50, 7, INT32_MAX, INT32_MIN};
      DeviceArray<std::uint16_t> device_table(type.narrow(table));
      DeviceArray<std::int32_t> device_ids(ids);
      DeviceArray<float> out(ids.size() * cols);
      EmbedArgs a{device_ids.get(),
                  device_table.get(),
                  out.get(),
                  static_cast<int>(ids.size()),
                  cols,
                  vocab,
                  bf16,
                  false};
      expect_launched(launch_embed(a, nullptr));
      const std::vector<float> got = out.values();
      for (std::size_t i = 0; i < got.size(); ++i) {
        const std::int32_t id = ids[i / cols];
        if (id < 0 || id >= vocab) {
          EXPECT_TRUE(std::isnan(got[i]));
        } else {
          EXPECT_EQ(got[i], table[std::size_t(id) * cols + i % cols]);
        }
      }
    }
  }
}

TEST(DenseRowsTest, SelectedRows) {
  KV8_NEEDS_GPU();
  for (const int row_bytes : {2, 6, 16, 1152, 8192}) {
    std::vector<std::uint8_t> x(std::size_t(20) * row_bytes);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<std::uint8_t>(i * 7 + i / 251);
    const std::vector<std::int32_t> ids = {19, 0, 3, 3, 20, -1};
    DeviceArray<std::uint8_t> device_x(x), out(ids.size() * row_bytes);
    DeviceArray<std::int32_t> device_ids(ids);
    SelectRowsArgs a;
    a.x = device_x.get();
    a.ids = device_ids.get();
    a.out = out.get();
    a.x_rows = 20;
    a.rows = static_cast<int>(ids.size());
    a.row_bytes = row_bytes;
    expect_launched(launch_select_rows(a, nullptr));
    std::vector<std::uint8_t> want;
    for (const std::int32_t id : ids) {
      for (int i = 0; i < row_bytes; ++i) {
        want.push_back(id >= 0 && id < 20 ? x[std::size_t(id) * row_bytes + i] : 0xFF);
      }
    }
    EXPECT_EQ(out.values(), want) << row_bytes;
  }
}

TEST(DenseRowsTest, PagesOfEveryPool) {
  KV8_NEEDS_GPU();
  constexpr int kPages = 9;
  const std::vector<std::int64_t> page_bytes = {16, 8192, 48, 65536};
  std::vector<std::vector<std::uint8_t>> content;
  std::vector<DeviceArray<std::uint8_t>> memory;
  std::vector<PagePool> pools;
  for (const std::int64_t bytes : page_bytes) {
    content.emplace_back(bytes * kPages);
    for (std::size_t i = 0; i < content.back().size(); ++i) {
      content.back()[i] = static_cast<std::uint8_t>(i / bytes * 31 + i * 3 + i / 253);
    }
    memory.emplace_back(content.back());
    pools.push_back({memory.back().get(), bytes});
  }
  const std::vector<PagePair> pairs = {{0, 8}, {3, 1}, {0, 2}, {9, 4}, {5, -1}, {7, 9}};
  DeviceArray<PagePool> device_pools(pools);
  DeviceArray<PagePair> device_pairs(pairs);
  CopyPagesArgs a;
  a.pools = device_pools.get();
  a.pairs = device_pairs.get();
  a.num_pools = static_cast<int>(pools.size());
  a.num_pairs = static_cast<int>(pairs.size());
  a.num_pages = kPages;
  expect_launched(launch_copy_pages(a, nullptr));
  for (std::size_t pool = 0; pool < pools.size(); ++pool) {
    std::vector<std::uint8_t> want = content[pool];
    for (int i = 0; i < 3; ++i) {
      std::memcpy(&want[pairs[i].to * page_bytes[pool]],
                  &content[pool][pairs[i].from * page_bytes[pool]], page_bytes[pool]);
    }
    EXPECT_EQ(memory[pool].values(), want) << page_bytes[pool];
  }
}

TEST(DenseRowsTest, Fill) {
  KV8_NEEDS_GPU();
  DeviceArray<std::uint32_t> data(std::vector<std::uint32_t>(100003, 1));
  expect_launched(launch_fill({data.get() + 1, 100001, 0xDEADBEEF, false}, nullptr));
  std::vector<std::uint32_t> want(100003, 0xDEADBEEF);
  want.front() = want.back() = 1;
  EXPECT_EQ(data.values(), want);
}

TEST(DenseRowsTest, RefusesEmptyWork) {
  EXPECT_FALSE(launch_rms_norm({}, nullptr).ok());
  EXPECT_FALSE(launch_swiglu({}, nullptr).ok());
  EXPECT_FALSE(launch_embed({}, nullptr).ok());
  EXPECT_FALSE(launch_select_rows({}, nullptr).ok());
  EXPECT_FALSE(launch_copy_pages({}, nullptr).ok());
  EXPECT_FALSE(launch_fill({}, nullptr).ok());
}

}  // namespace
}  // namespace kv8
