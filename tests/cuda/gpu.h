// Whether there is a GPU to test on, and device memory.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cuda/attention/attention.h"

namespace kv8::cuda_testing {

/// Skips where no GPU runs kv8's kernels.
#define KV8_NEEDS_GPU()                                                 \
  do {                                                                  \
    if (!kv8::current_family().ok()) GTEST_SKIP() << "skipped: no GPU"; \
  } while (false)

/// Makes attention.h choose one family of kernels as long as it lives.
class ForcedFamily {
 public:
  explicit ForcedFamily(KernelFamily family) {
    setenv(kVariable, std::string(to_string(family)).c_str(), 1);
    works_ = current_family().ok();
  }
  ForcedFamily(const ForcedFamily&) = delete;
  ~ForcedFamily() { unsetenv(kVariable); }
  /// Whether there is a GPU that runs the family.
  bool works() const { return works_; }

 private:
  static constexpr const char* kVariable = "KV8_FORCE_KERNEL";
  bool works_ = false;
};

/// For tests that all families pass.
class FamilyTest : public testing::TestWithParam<KernelFamily> {
 protected:
  void SetUp() override {
    if (!forced_.works()) GTEST_SKIP() << "skipped: no GPU for " << to_string(GetParam());
  }

 private:
  ForcedFamily forced_{GetParam()};
};
#define KV8_ALL_FAMILIES(test)                                                            \
  INSTANTIATE_TEST_SUITE_P(Families, test,                                                \
                           testing::Values(KernelFamily::kSm90, KernelFamily::kPortable), \
                           [](const testing::TestParamInfo<KernelFamily>& info) {         \
                             return std::string(to_string(info.param));                   \
                           })

/// An array in device memory.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    EXPECT_EQ(cudaMalloc(&data_, count * sizeof(T) + 16), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(other.count_) {}
  DeviceArray& operator=(DeviceArray&&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return static_cast<T*>(data_); }
  void set(const std::vector<T>& values) {
    EXPECT_EQ(values.size(), count_);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
    // The copy may still be under way, and streams of tests do not wait for the default one.
    EXPECT_EQ(cudaStreamSynchronize(cudaStreamLegacy), cudaSuccess);
  }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace kv8::cuda_testing
