// Where in a row's order a share of its weight lies, to within a 32nd of a factor e: a histogram of
// weights with 1,280 buckets, down to e^-40 of the largest.
#pragma once

#include "cuda/dense/sample/state.cuh"

namespace kv8::sample {

constexpr int kFinePerThread = kFine / kThreads;
static_assert(kFine % kThreads == 0);

/// Weights over their bucket's middle in units of 2^-39, 20 bits and 20 bits. A bucket for each
/// lane takes those that weigh nothing: no branch, no conflict.
struct FineLimbs {
  uint32_t words[2][kFine + 32];
};

struct FineMemory {
  union {
    FineLimbs limbs;
    uint4 quads[sizeof(FineLimbs) / sizeof(uint4)];
    double until[kFine];  ///< weight up to a bucket, that one included; the largest's is 1
  };
  double warp_weight[kWarps];
};

/// Buckets of a row, as whole numbers and what is left to both sides of them.
class FineBuckets {
 public:
  __device__ __forceinline__ explicit FineBuckets(const Weighing& weighing)
      : largest_(weighing.largest), scale_(32.0 * weighing.rate) {}

  /// kFine or more: a weight of nothing.
  __device__ __forceinline__ int of(float logit) const { return number(rounded(distance(logit))); }

  /// Sets the weight in units of 2^-39 of that of the bucket's middle.
  __device__ __forceinline__ int of(float logit, Word& weight) const {
    const double x = distance(logit), round = rounded(x);
    weight = fixed(exponential(fma(x, scale_, kMagic - round)));
    return number(round);
  }

 private:
  static constexpr double kMagic = 0x1.8p52;  // whole numbers of that size are in the low bits

  __device__ __forceinline__ double distance(float logit) const { return largest_ - logit; }
  __device__ __forceinline__ double rounded(double x) const { return fma(x, scale_, kMagic); }
  static __device__ __forceinline__ int number(double rounded) {
    const bool small = __double2hiint(rounded) == 0x43380000;
    const auto low = static_cast<uint32_t>(__double2loint(rounded));
    return small ? static_cast<int>(min(low, static_cast<uint32_t>(kFine))) : kFine;
  }
  /// e^(-x / 32) for |x| <= 1/2: the series, whose next term is below 2^-45.
  static __device__ __forceinline__ double exponential(double x) {
    double y = -1.0 / 120.0 * 0x1p-25;
#pragma unroll
    for (const double c :
         {1.0 / 24.0 * 0x1p-20, -1.0 / 6.0 * 0x1p-15, 0.5 * 0x1p-10, -0x1p-5, 1.0}) {
      y = fma(y, x, c);
    }
    return y;
  }
  /// In units of 2^-39.
  static __device__ __forceinline__ Word fixed(double weight) {
    return __double_as_longlong(fma(weight, 0x1p39, 0x1p52)) & ((Word{1} << 52) - 1);
  }

  double largest_, scale_;
};

class FineHistogram {
 public:
  __device__ __forceinline__ FineHistogram(FineMemory& memory, Word* row) : m_(memory), row_(row) {}

  __device__ __forceinline__ void clear() {
    constexpr int kQuads = sizeof(m_.quads) / sizeof(uint4);
    for (int i = threadIdx.x; i < kQuads; i += kThreads) m_.quads[i] = uint4{};
    __syncthreads();
  }

  /// Adds a thread's logits to the block's histogram.
  __device__ __forceinline__ void add(const float (&logit)[kItems], const FineBuckets& buckets) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Word weight;
      int bucket = buckets.of(logit[i], weight);
      if (bucket == kFine) bucket += static_cast<int>(threadIdx.x % 32);
      atomicAdd(&m_.limbs.words[0][bucket], static_cast<uint32_t>(weight >> 20));
      atomicAdd(&m_.limbs.words[1][bucket], static_cast<uint32_t>(weight & 0xfffff));
    }
  }

  /// Adds the block's histogram to the row's, which is empty before the first block's.
  __device__ __forceinline__ void publish() {
    __syncthreads();
    for (int b = threadIdx.x; b < kFine; b += kThreads) {
      const Word sum = (Word{m_.limbs.words[0][b]} << 20) + m_.limbs.words[1][b];
      if (sum != 0) atomicAdd(&row_[b], sum);
    }
  }

  /// At most how many logits the buckets that `takes` says hold, the thread's share of them: none
  /// weighs less than e^(-1 / 64) of its bucket's middle.
  template <class Takes>
  __device__ __forceinline__ uint32_t most_logits(Takes takes) const {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kFinePerThread; ++i) {
      const int bucket = kFinePerThread * static_cast<int>(threadIdx.x) + i;
      if (takes(bucket)) sum += ceil(__ull2double_rn(__ldcg(&row_[bucket])) * (1.016 * 0x1p-39));
    }
    return static_cast<uint32_t>(sum);
  }

  /// Sums up the row's histogram, when all blocks have added theirs.
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

  FineMemory& m_;
  Word* row_;
};

}  // namespace kv8::sample
