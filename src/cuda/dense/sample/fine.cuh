// Where in a row's order a share of its weight lies, to within a 32nd of a factor e: a histogram of
// weights with 1,280 buckets, down to e^-40 of the largest.
#pragma once

#include "cuda/dense/sample/state.cuh"

namespace kv8::sample {

constexpr int kFinePerThread = kFine / kThreads;
static_assert(kFine % kThreads == 0);

struct FineMemory {
  uint32_t limbs[2][kFine];  ///< weights over their bucket's largest in 2^-39: 20 bits, 20 bits
  double until[kFine];       ///< weight up to a bucket, that one included; the largest logit's is 1
  double warp_weight[kWarps];
};

class FineHistogram {
 public:
  __device__ __forceinline__ FineHistogram(FineMemory& memory, Word* row, const Weighing& weighing)
      : m_(memory), row_(row), largest_(weighing.largest), scale_(32.0 * weighing.rate) {}

  /// kFine or more: a weight of nothing.
  __device__ __forceinline__ int bucket_of(float logit) const {
    return __double2int_rz((largest_ - logit) * scale_);
  }

  /// Adds the block's logits to the row's histogram, which is empty before the first block's.
  __device__ __forceinline__ void add(const uint32_t* keys) {
    for (int i = threadIdx.x; i < 2 * kFine; i += kThreads) (&m_.limbs[0][0])[i] = 0;
    __syncthreads();
#pragma unroll 2
    for (int i = 0; i < kItems; ++i) {
      const uint32_t key = keys[i * kThreads + threadIdx.x];
      const double place = (largest_ - key_value(key)) * scale_;
      const int bucket = __double2int_rz(place);
      if (key == 0 || bucket >= kFine) continue;
      const Word weight = fixed(exponential(place - bucket));
      atomicAdd(&m_.limbs[0][bucket], static_cast<uint32_t>(weight >> 20));
      atomicAdd(&m_.limbs[1][bucket], static_cast<uint32_t>(weight & 0xfffff));
    }
    __syncthreads();
    for (int b = threadIdx.x; b < kFine; b += kThreads) {
      const Word sum = (Word{m_.limbs[0][b]} << 20) + m_.limbs[1][b];
      if (sum != 0) atomicAdd(&row_[b], sum);
    }
  }

  /// Sums up the row's histogram; a barrier of the team lies between.
  __device__ __forceinline__ void sum_up() {
    constexpr double kStep[kFinePerThread] = {1.0, 0.96923323447634413, 0.93941306281347581,
                                              0.91051036138003416, 0.88249690258459546};
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const double unit = exp(thread * (kFinePerThread / -32.0)) * 0x1p-39;
    double until[kFinePerThread], sum = 0.0;
#pragma unroll
    for (int i = 0; i < kFinePerThread; ++i) {
      const Word weights = __ldcg(&row_[kFinePerThread * thread + i]);
      until[i] = sum += __ull2double_rn(weights) * (unit * kStep[i]);
    }
    double before = sum;
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(~0u, before, offset);
      if (lane >= offset) before += other;
    }
    if (lane == 31) m_.warp_weight[warp] = before;
    before = __shfl_up_sync(~0u, before, 1);
    if (lane == 0) before = 0.0;
    __syncthreads();
    double warps = 0.0;
    for (int i = 0; i < warp; ++i) warps += m_.warp_weight[i];
#pragma unroll
    for (int i = 0; i < kFinePerThread; ++i) {
      m_.until[kFinePerThread * thread + i] = warps + (before + until[i]);
    }
    __syncthreads();
  }

  __device__ __forceinline__ double until(int bucket) const {
    return bucket < 0 ? 0.0 : m_.until[bucket];
  }
  __device__ __forceinline__ double total() const { return m_.until[kFine - 1]; }

  /// The first bucket up to which there is at least that weight, or more than it.
  __device__ __forceinline__ int reaching(double weight) const {
    return first([&](double until) { return until >= weight; });
  }
  __device__ __forceinline__ int exceeding(double weight) const {
    return first([&](double until) { return until > weight; });
  }

 private:
  template <class Good>
  __device__ __forceinline__ int first(Good good) const {
    int low = 0, high = kFine - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (good(m_.until[middle])) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  /// e^(-x / 32) for x from 0 to 1: the series, whose next term is below 2^-47.
  static __device__ __forceinline__ double exponential(double x) {
    double y = 1.0 / 720.0;
#pragma unroll
    for (const double c : {-1.0 / 120.0, 1.0 / 24.0, -1.0 / 6.0, 0.5, -1.0, 1.0}) {
      y = fma(y, x * 0.03125, c);
    }
    return y;
  }
  /// In units of 2^-39.
  static __device__ __forceinline__ Word fixed(double weight) {
    return __double_as_longlong(fma(weight, 0x1p39, 0x1p52)) & ((Word{1} << 52) - 1);
  }

  FineMemory& m_;
  Word* row_;
  double largest_, scale_;
};

}  // namespace kv8::sample
