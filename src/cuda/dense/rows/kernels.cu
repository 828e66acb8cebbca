#include <algorithm>

#include "cuda/dense/rows/entry.h"
#include "cuda/dense/start.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::rows {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 1 << 15;

unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((items + kThreads - 1) / kThreads, 1, kMaxBlocks));
}

bool aligned(const void* pointer, int bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

/// kWidth elements that move with one access.
template <class T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T v[kWidth];
};

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> load(const void* base, int64_t pack) {
  return static_cast<const Pack<T, kWidth>*>(base)[pack];
}

template <class T, int kWidth>
__device__ __forceinline__ void store(void* base, int64_t pack, const Pack<T, kWidth>& value) {
  static_cast<Pack<T, kWidth>*>(base)[pack] = value;
}

/// A block a row; what the block read for the sum it finds in L1 afterwards.
template <bool kBf16, int kWidth>
__global__ void rms_norm(const RmsNormArgs a) {
  __shared__ float scratch[32];
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const float* x = a.x + int64_t{blockIdx.x} * a.cols;
  const int packs = a.cols / kWidth, threads = static_cast<int>(blockDim.x);
  float sum = 0.0f;
#pragma unroll 4
  for (int i = threadIdx.x; i < packs; i += threads) {
    const auto v = load<float, kWidth>(x, i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += v.v[j] * v.v[j];
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0.0f;
  for (int warp = 0; warp < threads / 32; ++warp) total += scratch[warp];
  const float inverse = 1.0f / sqrtf(total / static_cast<float>(a.cols) + a.eps);
  auto* out = static_cast<uint16_t*>(a.out) + int64_t{blockIdx.x} * a.cols;
#pragma unroll 2
  for (int i = threadIdx.x; i < packs; i += threads) {
    const auto v = load<float, kWidth>(x, i);
    float w[kWidth];
    if (a.weight_f32) {
      const auto weight = load<float, kWidth>(a.weight, i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) w[j] = weight.v[j];
    } else {
      const auto weight = load<uint16_t, kWidth>(a.weight, i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) w[j] = dense::widen<kBf16>(weight.v[j]);
    }
    Pack<uint16_t, kWidth> y;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) y.v[j] = dense::narrow<kBf16>(v.v[j] * inverse * w[j]);
    store(out, i, y);
  }
}

template <bool kBf16, int kWidth>
__global__ void swiglu(const SwiGluArgs a) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const int packs = a.cols / kWidth;
  const int64_t end = int64_t{a.rows} * packs, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < end; at += stride) {
    const int64_t row = at / packs, i = at - row * packs;
    const auto gate = load<uint16_t, kWidth>(a.gate_up, row * 2 * packs + i);
    const auto up = load<uint16_t, kWidth>(a.gate_up, row * 2 * packs + packs + i);
    Pack<uint16_t, kWidth> y;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float product =
          dense::silu(dense::widen<kBf16>(gate.v[j])) * dense::widen<kBf16>(up.v[j]);
      y.v[j] = dense::narrow<kBf16>(product);
    }
    store(a.out, at, y);
  }
}

template <bool kBf16, int kWidth>
__global__ void embed(const EmbedArgs a) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const int packs = a.cols / kWidth;
  const int64_t end = int64_t{a.rows} * packs, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < end; at += stride) {
    const int64_t row = at / packs, i = at - row * packs;
    const int32_t id = a.ids[row];
    Pack<float, kWidth> y;
    if (id >= 0 && id < a.vocab) {
      const auto x = load<uint16_t, kWidth>(a.table, int64_t{id} * packs + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) y.v[j] = dense::widen<kBf16>(x.v[j]);
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) y.v[j] = __int_as_float(0x7fffffff);
    }
    store(a.out, at, y);
  }
}

template <int kWidth>
__global__ void select_rows(const SelectRowsArgs a) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const int64_t packs = a.row_bytes / (2 * kWidth), end = a.rows * packs;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < end; at += stride) {
    const int64_t row = at / packs, i = at - row * packs;
    const int32_t id = a.ids[row];
    Pack<uint16_t, kWidth> y;
    if (id >= 0 && id < a.x_rows) {
      y = load<uint16_t, kWidth>(a.x, id * packs + i);
    } else {
#pragma unroll
      for (int j = 0; j < kWidth; ++j) y.v[j] = 0xFFFF;
    }
    store(a.out, at, y);
  }
}

__global__ void copy_pages(const CopyPagesArgs a) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const PagePool pool = a.pools[blockIdx.y];
  const PagePair pair = a.pairs[blockIdx.z];
  if (pair.from < 0 || pair.from >= a.num_pages || pair.to < 0 || pair.to >= a.num_pages) return;
  const int64_t packs = pool.page_bytes / 16;
  const uint4* from = static_cast<const uint4*>(pool.data) + pair.from * packs;
  uint4* to = static_cast<uint4*>(pool.data) + pair.to * packs;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
#pragma unroll 4
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += stride) {
    to[i] = from[i];
  }
}

__global__ void fill(const FillArgs a) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < a.words; i += stride) {
    static_cast<uint32_t*>(a.data)[i] = a.word;
  }
}

template <class Args>
using Kernel = void (*)(const Args);

}  // namespace

cudaError_t start_rms_norm(const RmsNormArgs& a, cudaStream_t stream) {
  const bool wide =
      a.cols % 4 == 0 && aligned(a.x, 16) && aligned(a.weight, 16) && aligned(a.out, 8);
  const Kernel<RmsNormArgs> kernel = wide ? (a.bf16 ? rms_norm<true, 4> : rms_norm<false, 4>)
                                          : (a.bf16 ? rms_norm<true, 1> : rms_norm<false, 1>);
  const int threads = std::clamp((a.cols / (wide ? 8 : 2) + 31) / 32 * 32, 32, 1024);
  return dense::start(kernel, static_cast<unsigned>(a.rows), threads, 0, a.dependent_launch, stream,
                      a);
}

cudaError_t start_swiglu(const SwiGluArgs& a, cudaStream_t stream) {
  const bool wide = a.cols % 8 == 0 && aligned(a.gate_up, 16) && aligned(a.out, 16);
  const Kernel<SwiGluArgs> kernel = wide ? (a.bf16 ? swiglu<true, 8> : swiglu<false, 8>)
                                         : (a.bf16 ? swiglu<true, 1> : swiglu<false, 1>);
  return dense::start(kernel, blocks_for(int64_t{a.rows} * a.cols / (wide ? 8 : 1)), kThreads, 0,
                      a.dependent_launch, stream, a);
}

cudaError_t start_embed(const EmbedArgs& a, cudaStream_t stream) {
  const bool wide = a.cols % 4 == 0 && aligned(a.table, 8) && aligned(a.out, 16);
  const Kernel<EmbedArgs> kernel = wide ? (a.bf16 ? embed<true, 4> : embed<false, 4>)
                                        : (a.bf16 ? embed<true, 1> : embed<false, 1>);
  return dense::start(kernel, blocks_for(int64_t{a.rows} * a.cols / (wide ? 4 : 1)), kThreads, 0,
                      a.dependent_launch, stream, a);
}

cudaError_t start_select_rows(const SelectRowsArgs& a, cudaStream_t stream) {
  const bool wide = a.row_bytes % 16 == 0 && aligned(a.x, 16) && aligned(a.out, 16);
  return dense::start(wide ? select_rows<8> : select_rows<1>,
                      blocks_for(a.rows * a.row_bytes / (wide ? 16 : 2)), kThreads, 0,
                      a.dependent_launch, stream, a);
}

cudaError_t start_copy_pages(const CopyPagesArgs& a, cudaStream_t stream) {
  const dim3 grid(8, static_cast<unsigned>(a.num_pools), static_cast<unsigned>(a.num_pairs));
  return dense::start(copy_pages, grid, kThreads, 0, a.dependent_launch, stream, a);
}

cudaError_t start_fill(const FillArgs& a, cudaStream_t stream) {
  return dense::start(fill, blocks_for(a.words), kThreads, 0, a.dependent_launch, stream, a);
}

}  // namespace kv8::rows
