// A few rows of x times a weight matrix. See docs/dense-kernels.md for the design.
//
// A block takes units of 8 * kTiles weight rows; its warps share the columns of a unit, 64 at a
// time, and join their sums at its end. Every lane copies ahead exactly the 16-byte pieces that it
// will multiply itself, so a warp's ring of weights needs no barrier. Products are
// mma.sync.m16n8k16: x is the operand of 16 rows (8 stay empty), weight rows are its 8 columns, and
// since the order of a contraction is free, a lane's 16 contiguous bytes are two products' operand.
#pragma once

#include "cuda/dense/gemv/params.h"
#include "cuda/dense/start.cuh"
#include "cuda/ptx/async_copy.cuh"
#include "cuda/ptx/dependent_launch.cuh"
#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/mma.cuh"

namespace kv8::gemv {

constexpr int kChunk = 64;  ///< columns that a warp takes at a time: 128 bytes of a row

template <bool kBf16_, int kWarps_, int kTiles_, int kStages_, bool kNorm_>
struct Shape {
  static constexpr bool kBf16 = kBf16_;
  static constexpr int kWarps = kWarps_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kStages = kStages_;
  static constexpr bool kNorm = kNorm_;  ///< fused: x in shared memory, else it comes through L1
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kUnit = 8 * kTiles;             ///< weight rows of a unit
  static constexpr int kChains = kTiles == 1 ? 2 : 1;  ///< sums of a tile side by side
  static constexpr int kStageBytes = kTiles * 2 * 512;
  static constexpr int kRingBytes = kWarps * kStages * kStageBytes;
};

/// Bytes between rows of x in shared memory: 64 modulo 128, so that a load by a warp meets no bank
/// conflict.
__host__ __device__ constexpr int x_stride(int in) { return (in + 63) / 64 * 128 + 64; }

/// Bytes of the warps' sums of two units.
template <class S>
__host__ __device__ constexpr int sum_bytes(int rows) {
  return 2 * S::kWarps * rows * S::kUnit * 4;
}

/// Bytes of the norm's weights in shared memory.
__host__ __device__ constexpr int norm_bytes(const GemvArgs& a) {
  return a.norm_weight == nullptr ? 0 : a.in * (a.norm_weight_f32 ? 4 : 2);
}

template <class S>
constexpr int shared_bytes(const GemvArgs& a) {
  return S::kRingBytes + sum_bytes<S>(a.rows) +
         (S::kNorm ? a.rows * x_stride(a.in) + norm_bytes(a) : 0);
}

struct Work {
  int units, steps;  ///< units of the matrix; chunks that a warp takes of each
};

template <class S>
__device__ __forceinline__ Work work_of(const GemvArgs& a) {
  const int outputs = a.swiglu ? S::kUnit / 2 : S::kUnit;
  const int chunks = (a.in + kChunk - 1) / kChunk;
  return {(a.out_features + outputs - 1) / outputs, (chunks + S::kWarps - 1) / S::kWarps};
}

/// One warp's weights in the order of use. Lane 4g + q holds row g of a tile, columns 8q to 8q + 7
/// of each half chunk.
template <class S>
class WeightStream {
 public:
  __device__ WeightStream(const GemvArgs& a, const Work& work, uint32_t ring)
      : args_(a), work_(work), lane_(ring + threadIdx.x % 32 * 16), unit_(blockIdx.x) {
    aim();
  }

  /// Requests the next stage; past the last unit an empty one.
  __device__ __forceinline__ void fetch() {
    if (unit_ < work_.units) {
      const int column = chunk_ * kChunk + threadIdx.x % 4 * 8;
      const uint32_t slot = lane_ + write_ * S::kStageBytes;
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const bool inside = rows_[tile] != nullptr && column + 32 * half < args_.in;
          const void* source = inside ? rows_[tile] + column + 32 * half : args_.weight;
          ptx::async_copy_16(slot + (2 * tile + half) * 512, source, inside ? 16 : 0);
        }
      }
      chunk_ += S::kWarps;
      if (++step_ == work_.steps) {
        unit_ += static_cast<int>(gridDim.x);
        aim();
      }
    }
    ptx::async_copy_commit();
    write_ = write_ + 1 == S::kStages ? 0 : write_ + 1;
  }

  /// Shared address of this lane's pieces of the oldest stage. The next fetch fills its place
  /// again: products stand between, and wait for what they read.
  __device__ __forceinline__ uint32_t next() {
    ptx::async_copy_wait<S::kStages - 1>();
    const uint32_t slot = lane_ + read_ * S::kStageBytes;
    read_ = read_ + 1 == S::kStages ? 0 : read_ + 1;
    return slot;
  }

 private:
  __device__ __forceinline__ void aim() {
    step_ = 0;
    chunk_ = static_cast<int>(threadIdx.x) / 32;
    const int row = static_cast<int>(threadIdx.x) % 32 / 4;
    const auto* weight = static_cast<const uint16_t*>(args_.weight);
#pragma unroll
    for (int tile = 0; tile < S::kTiles; ++tile) {
      int output = unit_ * S::kUnit + tile * 8 + row, at = output;
      if (args_.swiglu) {
        output = (unit_ * S::kTiles + tile) * 4 + row % 4;
        at = row < 4 ? output : args_.out_features + output;
      }
      rows_[tile] =
          output < args_.out_features ? weight + static_cast<int64_t>(at) * args_.in : nullptr;
    }
  }

  const GemvArgs& args_;
  const Work& work_;
  uint32_t lane_;
  int unit_, step_ = 0, chunk_ = 0, write_ = 0, read_ = 0;
  const uint16_t* rows_[S::kTiles];
};

/// 16 bytes of the model's type from eight floats.
template <bool kBf16>
__device__ __forceinline__ uint4 pack(const float (&v)[8]) {
  uint16_t h[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) h[i] = dense::narrow<kBf16>(v[i]);
  return make_uint4(h[0] | h[1] << 16, h[2] | h[3] << 16, h[4] | h[5] << 16, h[6] | h[7] << 16);
}

__device__ __forceinline__ void load_8(const float* from, float (&v)[8]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0];
  const float4 high = reinterpret_cast<const float4*>(from)[1];
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
  v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}

/// Requests the norm's weights, which no kernel writes, as the first group of copies.
template <class S>
__device__ __forceinline__ void fetch_norm(const GemvArgs& a, uint32_t shared) {
  const auto* from = static_cast<const char*>(a.norm_weight);
  for (int i = threadIdx.x * 16; i < norm_bytes(a); i += S::kThreads * 16) {
    ptx::async_copy_16(shared + i, from + i, 16);
  }
  ptx::async_copy_commit();
}

/// Eight of the norm's weights from shared memory.
template <bool kBf16>
__device__ __forceinline__ void load_norm(const GemvArgs& a, const char* shared, int piece,
                                          float (&w)[8]) {
  if (a.norm_weight_f32) {
    load_8(reinterpret_cast<const float*>(shared) + piece * 8, w);
    return;
  }
  const uint4 bits = reinterpret_cast<const uint4*>(shared)[piece];
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    w[j] = dense::widen<kBf16>(static_cast<uint16_t>(words[j / 2] >> 16 * (j % 2)));
  }
}

/// Normalises the FP32 rows of x into shared memory; a group of warps takes each row, and finds it
/// in L1 the second time.
template <class S>
__device__ __forceinline__ void normalize_x(const GemvArgs& a, char* shared, const char* norm,
                                            float* scratch) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row_slots = a.rows > 4 ? 8 : a.rows > 2 ? 4 : a.rows;
  const int group_warps = S::kWarps / row_slots, group_threads = group_warps * 32;
  const int row = warp / group_warps, thread = warp % group_warps * 32 + lane;
  const float* from = static_cast<const float*>(a.x) + int64_t{row} * a.in;
  float sum = 0.0f;
  if (row < a.rows) {
#pragma unroll 4
    for (int i = thread * 8; i < a.in; i += group_threads * 8) {
      float v[8];
      load_8(from + i, v);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += v[j] * v[j];
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) scratch[warp] = sum;
  ptx::async_copy_wait<S::kStages>();  // the norm's weights
  __syncthreads();
  if (row >= a.rows) return;
  float total = 0.0f;
  for (int i = 0; i < group_warps; ++i) total += scratch[row * group_warps + i];
  const float inverse = 1.0f / sqrtf(total / static_cast<float>(a.in) + a.norm_eps);
  uint4* to = reinterpret_cast<uint4*>(shared + row * x_stride(a.in));
  const int pieces = (a.in + kChunk - 1) / kChunk * 8;
#pragma unroll 2
  for (int i = thread; i < pieces; i += group_threads) {
    float v[8] = {}, w[8] = {};
    if (i * 8 < a.in) {
      load_8(from + i * 8, v);
      load_norm<S::kBf16>(a, norm, i, w);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = v[j] * inverse * w[j];
    to[i] = pack<S::kBf16>(v);
  }
}

/// Where a lane finds its part of x: row lane / 4, columns as the weights'.
template <class S>
class XReader {
 public:
  __device__ XReader(const GemvArgs& a, uint32_t shared, int steps) : args_(a), steps_(steps) {
    const int lane = threadIdx.x % 32, row = lane / 4;
    warp_ = chunk_ = static_cast<int>(threadIdx.x) / 32;
    inside_ = row < a.rows;
    column_ = lane % 4 * 8;
    if constexpr (S::kNorm) {
      address_ = shared + (inside_ ? row : 0) * x_stride(a.in) + lane % 4 * 16;
    } else {
      global_ = static_cast<const uint16_t*>(a.x) + int64_t{inside_ ? row : 0} * a.in;
      load_global();
    }
  }

  /// The two halves of the next chunk; after a unit's last one it begins again.
  __device__ __forceinline__ void next(uint4 (&x)[2]) {
    if constexpr (S::kNorm) {
      x[0] = x[1] = make_uint4(0, 0, 0, 0);
      if (inside_ && chunk_ * kChunk < args_.in) {
        x[0] = ptx::load_shared_16(address_ + chunk_ * 128);
        x[1] = ptx::load_shared_16(address_ + chunk_ * 128 + 64);
      }
      advance();
    } else {
      x[0] = ahead_[0], x[1] = ahead_[1];
      advance();
      load_global();
    }
  }

 private:
  __device__ __forceinline__ void advance() {
    chunk_ += S::kWarps;
    if (++step_ == steps_) step_ = 0, chunk_ = warp_;
  }
  __device__ __forceinline__ void load_global() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int column = chunk_ * kChunk + 32 * half + column_;
      ahead_[half] = inside_ && column < args_.in
                         ? *reinterpret_cast<const uint4*>(global_ + column)
                         : make_uint4(0, 0, 0, 0);
    }
  }

  const GemvArgs& args_;
  int steps_, step_ = 0, warp_, chunk_, column_;
  bool inside_;
  uint32_t address_ = 0;
  const uint16_t* global_ = nullptr;
  uint4 ahead_[2];
};

template <bool kBf16>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint4& x, const uint4& w) {
  if constexpr (kBf16) {
    ptx::mma_bfloat(sum, x.x, 0, x.y, 0, w.x, w.y);
    ptx::mma_bfloat(sum, x.z, 0, x.w, 0, w.z, w.w);
  } else {
    ptx::mma_half(sum, x.x, 0, x.y, 0, w.x, w.y);
    ptx::mma_half(sum, x.z, 0, x.w, 0, w.z, w.w);
  }
}

/// Adds the warps' sums in their order.
template <class S>
__device__ __forceinline__ float join(const float* sums, int rows, int at) {
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < S::kWarps; ++warp) sum += sums[warp * rows * S::kUnit + at];
  return sum;
}

/// One thread's output of every unit: what is added to the sum comes before it is needed.
template <class S>
class Output {
 public:
  __device__ explicit Output(const GemvArgs& a)
      : a_(a),
        outputs_(a.swiglu ? S::kUnit / 2 : S::kUnit),
        row_(static_cast<int>(threadIdx.x) / outputs_),
        n_(static_cast<int>(threadIdx.x) % outputs_) {}

  __device__ __forceinline__ void begin(int unit) {
    output_ = unit * outputs_ + n_;
    inside_ = row_ < a_.rows && output_ < a_.out_features;
    at_ = row_ * a_.out_features + output_;
    addend_ = 0.0f;
    if (!inside_) return;
    if (a_.bias != nullptr) {
      addend_ = dense::widen<S::kBf16>(static_cast<const uint16_t*>(a_.bias)[output_]);
    }
    if (a_.residual != nullptr) addend_ += a_.residual[at_];
  }

  __device__ __forceinline__ void finish(const float* sums) const {
    if (!inside_) return;
    float value;
    if (a_.swiglu) {
      const int gate = row_ * S::kUnit + n_ / 4 * 8 + n_ % 4;
      value = dense::silu(join<S>(sums, a_.rows, gate)) * join<S>(sums, a_.rows, gate + 4);
    } else {
      value = join<S>(sums, a_.rows, row_ * S::kUnit + n_) + addend_;
    }
    if (a_.f32_out) {
      static_cast<float*>(a_.out)[at_] = value;
    } else {
      static_cast<uint16_t*>(a_.out)[at_] = dense::narrow<S::kBf16>(value);
    }
  }

 private:
  const GemvArgs& a_;
  int outputs_, row_, n_, output_ = 0;
  bool inside_ = false;
  int at_ = 0;  ///< of the output, which has less than 2^31 elements
  float addend_ = 0.0f;
};

template <class S>
__global__ __launch_bounds__(S::kThreads, 1024 / S::kThreads) void multiply_rows(
    const __grid_constant__ GemvArgs a) {
  extern __shared__ __align__(128) char shared[];
  static_assert(kGemvMaxRows * S::kUnit <= S::kThreads, "a thread finishes one output of a unit");
  ptx::start_dependents();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* sums = reinterpret_cast<float*>(shared + S::kRingBytes);
  char* x_rows = shared + S::kRingBytes + sum_bytes<S>(a.rows);
  char* norm = x_rows + a.rows * x_stride(a.in);
  const Work work = work_of<S>(a);
  if constexpr (S::kNorm) fetch_norm<S>(a, ptx::shared_address(norm));
  WeightStream<S> weights(a, work,
                          ptx::shared_address(shared) + warp * S::kStages * S::kStageBytes);
  for (int i = 0; i < S::kStages; ++i) weights.fetch();
  ptx::wait_for_predecessors();
  Output<S> output(a);
  output.begin(blockIdx.x);
  if constexpr (S::kNorm) {
    normalize_x<S>(a, x_rows, norm, sums);
    __syncthreads();
  }
  XReader<S> reader(a, ptx::shared_address(x_rows), work.steps);
  int parity = 0;
  for (int unit = blockIdx.x; unit < work.units; unit += gridDim.x, parity ^= 1) {
    float sum[S::kTiles][S::kChains][4] = {};
    for (int step = 0; step < work.steps; ++step) {
      uint4 x[2];
      reader.next(x);
      const uint32_t slot = weights.next();
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const uint4 w = ptx::load_shared_16(slot + (2 * tile + half) * 512);
          multiply<S::kBf16>(sum[tile][half % S::kChains], x[half], w);
        }
      }
      weights.fetch();
    }
    float* unit_sums = sums + parity * S::kWarps * a.rows * S::kUnit;
    if (lane / 4 < a.rows) {
      float* own = unit_sums + (warp * a.rows + lane / 4) * S::kUnit + lane % 4 * 2;
#pragma unroll
      for (int tile = 0; tile < S::kTiles; ++tile) {
        for (int i = 0; i < 2; ++i) {
          own[tile * 8 + i] =
              S::kChains == 2 ? sum[tile][0][i] + sum[tile][S::kChains - 1][i] : sum[tile][0][i];
        }
      }
    }
    __syncthreads();
    output.finish(unit_sums);
    output.begin(unit + gridDim.x);
  }
}

}  // namespace kv8::gemv
