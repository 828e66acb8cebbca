#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/wgmma.cuh"
#include "cuda/testing/ceiling_kernels.h"

namespace kv8::cuda_testing {
namespace {

__global__ void clock_kernel(std::uint64_t* out) {
  std::uint64_t begin, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  const long long first = clock64();
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < 20000);
  out[0] = clock64() - first;
  out[1] = now - begin;
}

__global__ void __launch_bounds__(256, 1)
    wgmma_kernel(int rounds, std::uint32_t seed, float* sink) {
  extern __shared__ __align__(1024) std::uint8_t shared[];
  constexpr int kTileBytes = 128 * 128;
  for (int i = threadIdx.x; i < 3 * kTileBytes; i += blockDim.x) {
    std::uint32_t x = (i + 1) * 2654435761u ^ seed;
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 12;
    // Sign, exponent 4 to 11, any mantissa: finite codes of ordinary size.
    shared[i] = static_cast<std::uint8_t>((x & 0x80) | ((((x >> 8) & 7) + 4) << 3) | (x >> 16 & 7));
  }
  ptx::fence_async_shared();
  __syncthreads();
  const std::uint32_t base = ptx::shared_address(shared);
  const std::uint64_t a = ptx::k_major_descriptor<128>(base + threadIdx.x / 128 * (kTileBytes / 2));
  const std::uint64_t b = ptx::k_major_descriptor<128>(base + kTileBytes);
  float sum[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) sum[i] = 0.0f;
  ptx::pin(sum);
  ptx::wgmma_fence();
  for (int round = 0; round < rounds; ++round) {
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) ptx::wgmma_e4m3_f32<128>(sum, a + 2 * k, b + 2 * k, true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
  }
  ptx::wgmma_wait<0>();
  ptx::pin(sum);
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < 64; ++i) total += sum[i];
  if (total == 12345.0f) *sink = total;
}

}  // namespace

void launch_clock(std::uint64_t* out) { clock_kernel<<<1, 1>>>(out); }

void launch_wgmma_ceiling(int blocks, int rounds, std::uint32_t seed, float* sink) {
  constexpr int kShared = 3 * 128 * 128;
  cudaFuncSetAttribute(wgmma_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  wgmma_kernel<<<blocks, 256, kShared>>>(rounds, seed, sink);
}

}  // namespace kv8::cuda_testing
