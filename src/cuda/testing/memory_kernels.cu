#include "cuda/testing/memory_kernels.h"

namespace kv8::cuda_testing {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 8;

/// Each block walks over its own consecutive stretches.
template <bool kStreaming>
__global__ void read_kernel(const uint4* data, std::size_t count, uint4* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  for (std::size_t base = std::size_t{blockIdx.x} * kThreads * kUnroll; base < count;
       base += std::size_t{gridDim.x} * kThreads * kUnroll) {
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const uint4* from = data + base + i * kThreads + threadIdx.x;
      const uint4 x = kStreaming ? __ldcs(from) : __ldcg(from);
      sum.x ^= x.x, sum.y ^= x.y, sum.z ^= x.z, sum.w ^= x.w;
    }
  }
  if (sum.x == 0x12345678 && sum.y == 0x9abcdef0 && sum.z == 1 && sum.w == 2) *sink = sum;
}

__global__ void copy_kernel(const uint4* from, uint4* to, std::size_t count) {
  for (std::size_t base = std::size_t{blockIdx.x} * kThreads * kUnroll; base < count;
       base += std::size_t{gridDim.x} * kThreads * kUnroll) {
    uint4 x[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) x[i] = __ldcs(from + base + i * kThreads + threadIdx.x);
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) __stcs(to + base + i * kThreads + threadIdx.x, x[i]);
  }
}

constexpr int kShortThreads = 256;
constexpr int kShortUnroll = 4;

/// Each block one stretch, so that a few MiB already keep every multiprocessor busy.
__global__ void short_copy_kernel(const uint4* from, uint4* to, std::size_t count) {
  const std::size_t first = std::size_t{blockIdx.x} * kShortThreads * kShortUnroll + threadIdx.x;
  uint4 x[kShortUnroll];
#pragma unroll
  for (int i = 0; i < kShortUnroll; ++i) {
    if (first + i * kShortThreads < count) x[i] = __ldcs(from + first + i * kShortThreads);
  }
#pragma unroll
  for (int i = 0; i < kShortUnroll; ++i) {
    if (first + i * kShortThreads < count) __stcs(to + first + i * kShortThreads, x[i]);
  }
}

constexpr int kBlocks = 132 * 4 * 4;

}  // namespace

void launch_read(const void* data, std::size_t bytes, void* sink) {
  read_kernel<true><<<kBlocks, kThreads>>>(static_cast<const uint4*>(data), bytes / 16,
                                           static_cast<uint4*>(sink));
}

void launch_read_and_keep(const void* data, std::size_t bytes, void* sink) {
  read_kernel<false><<<kBlocks, kThreads>>>(static_cast<const uint4*>(data), bytes / 16,
                                            static_cast<uint4*>(sink));
}

void launch_copy(const void* from, void* to, std::size_t bytes) {
  copy_kernel<<<kBlocks, kThreads>>>(static_cast<const uint4*>(from), static_cast<uint4*>(to),
                                     bytes / 16);
}

void launch_short_copy(const void* from, void* to, std::size_t bytes) {
  constexpr std::size_t kBytesPerBlock = 16 * kShortThreads * kShortUnroll;
  const std::size_t blocks = (bytes + kBytesPerBlock - 1) / kBytesPerBlock;
  short_copy_kernel<<<static_cast<unsigned>(blocks), kShortThreads>>>(
      static_cast<const uint4*>(from), static_cast<uint4*>(to), bytes / 16);
}

}  // namespace kv8::cuda_testing
