// What every block of a row begins and ends with: its logits, their best, what is wrong with them;
// the row's token.
#pragma once

#include <cfloat>

#include "cuda/dense/sample/state.cuh"

namespace kv8::sample {

/// A block's view of its row.
struct RowMemory {
  uint32_t keys[kSlice];  ///< of its logits, biases added; 0 past the end of the row
  Part warps[kWarps];
  uint32_t warp_count[kWarps];
};

/// splitmix64's finaliser, as uniform_at (ops/sampling.h) uses it.
__device__ __forceinline__ double uniform_at(Word seed, Word counter) {
  const auto mix = [](Word x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  };
  return __ull2double_rn(mix(mix(seed) ^ counter) >> 11) * 0x1p-53;
}

/// The warp's largest word.
__device__ __forceinline__ Word warp_max(Word word) {
  const auto high = static_cast<uint32_t>(word >> 32), low = static_cast<uint32_t>(word);
  const uint32_t most = __reduce_max_sync(~0u, high);
  return Word{most} << 32 | __reduce_max_sync(~0u, high == most ? low : 0);
}

/// The parts of a warp's lanes joined, but for their sums.
__device__ __forceinline__ Part join_warp(Part p) {
  p.best = warp_max(p.best);
  p.fault = __reduce_min_sync(~0u, p.fault);
  p.finite = __reduce_or_sync(~0u, p.finite);
  return p;
}

__device__ __forceinline__ double sum_warp(double sum) {
  for (int offset = 1; offset < 32; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum;
}

/// e^x for x <= 0, to about 2^-47 of itself; called by whole warps. 2^(k/32) comes from lane k.
class Exponential {
 public:
  __device__ __forceinline__ Exponential()
      : power_(exp2(static_cast<double>(threadIdx.x % 32) * 0.03125)) {}

  __device__ __forceinline__ double operator()(double x) const {
    constexpr double kMagic = 0x1.8p52;  // whole numbers of that size are in the low bits
    constexpr double kLn2High = 0x1.62e42fefa39efp-6, kLn2Low = 0x1.abc9e3b39803fp-61;  // over 32
    x = fmax(x, -700.0);
    const double rounded = fma(x, 0x1.71547652b82fep5, kMagic);
    const int n = __double2loint(rounded);
    const double whole = rounded - kMagic;
    const double rest = fma(whole, -kLn2Low, fma(whole, -kLn2High, x));
    double y = 1.0 / 120.0;
#pragma unroll
    for (const double c : {1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0}) y = fma(y, rest, c);
    y *= __shfl_sync(~0u, power_, n & 31);
    return __hiloint2double(__double2hiint(y) + ((n >> 5) << 20), __double2loint(y));
  }

 private:
  double power_;
};

/// A block of a row. Settings are read by every thread where they are needed.
class RowReader {
 public:
  __device__ __forceinline__ RowReader(const SampleArgs& args, RowMemory& memory, RowState& state,
                                       int row, int part, int parts)
      : a_(args),
        m_(memory),
        state_(state),
        settings_(args.settings[row]),
        logits_(args.logits + static_cast<int64_t>(row) * args.vocab),
        row_(row),
        part_(part),
        parts_(parts),
        slice_(part) {}

 protected:
  using Logits = float[kItems];

  __device__ __forceinline__ int num_top() const {
    const int most = a_.top == nullptr ? 0 : min(kSampleMaxLogprobs, a_.vocab);
    return max(0, min(settings_.num_logprobs, most));
  }
  __device__ __forceinline__ int num_bias() const {
    return a_.bias == nullptr ? 0 : settings_.num_bias;
  }
  __device__ __forceinline__ bool greedy() const {
    return settings_.temperature == 0.0f || settings_.top_k == 1;
  }
  /// Whether top_k alone leaves few logits.
  __device__ __forceinline__ bool few() const { return needs_few_logits(settings_); }
  /// Whether top_k leaves everything in.
  __device__ __forceinline__ bool whole_row() const {
    return settings_.top_k <= 0 || settings_.top_k >= a_.vocab;
  }
  __device__ __forceinline__ int first_id() const { return slice_ * kSlice; }
  __device__ __forceinline__ int id_of(int i) const {
    return first_id() + i * kThreads + static_cast<int>(threadIdx.x);
  }
  __device__ __forceinline__ uint32_t& key(int item) { return m_.keys[item]; }
  /// The thread's i-th candidate, 0 past the end of the row.
  __device__ __forceinline__ Word item_candidate(int i) {
    const uint32_t own = key(i * kThreads + static_cast<int>(threadIdx.x));
    return own == 0 ? 0 : candidate(own, id_of(i));
  }
  __device__ __forceinline__ bool faulty() const {
    return whole_.fault != ~0u || whole_.finite == 0;
  }
  __device__ __forceinline__ int best() const { return candidate_id(whole_.best); }
  __device__ __forceinline__ Weighing weighing() const {
    return {key_value(static_cast<uint32_t>(whole_.best >> 32)),
            1.0 / static_cast<double>(settings_.temperature)};
  }

  /// Requests the block's logits; -infinity past the end of the row.
  __device__ __forceinline__ void request(Logits& logit) const {
    const float* const own = logits_ + id_of(0);
    if (first_id() + kSlice <= a_.vocab) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) logit[i] = own[i * kThreads];
    } else {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        logit[i] = id_of(i) < a_.vocab ? own[i * kThreads] : -INFINITY;
      }
    }
  }

  /// What is wrong with the thread's logits, and their largest. Before biases.
  __device__ __forceinline__ Part inspect(const Logits& logit) const {
    Part p{0, 0.0, -INFINITY, ~0u, 0, 0};
    bool good = true;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      p.largest = fmaxf(p.largest, logit[i]);
      good = good && logit[i] < INFINITY;
    }
    if (!good) {
      for (int i = kItems - 1; i >= 0; --i) {
        if (id_of(i) < a_.vocab && !(logits_[id_of(i)] < INFINITY)) p.fault = id_of(i);
      }
    }
    p.finite = p.largest > -INFINITY;
    return p;
  }

  /// The warp's largest logit and sum of exponentials, in all lanes. Before biases.
  __device__ __forceinline__ void add_up(const Logits& logit, Part& p) const {
    const Exponential exponential;
    p.largest = key_value(__reduce_max_sync(~0u, order_key(p.largest)));
    if (!(p.largest > -INFINITY)) return;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      p.sum += exponential(static_cast<double>(logit[i]) - p.largest);
    }
    p.sum = sum_warp(p.sum);
  }

  /// Adds the row's biases; returns the thread's largest logit.
  __device__ __forceinline__ float add_biases(Logits& logit, float largest) {
    if (num_bias() == 0) return largest;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key(i * kThreads + static_cast<int>(threadIdx.x)) = __float_as_uint(logit[i]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < num_bias(); i += kThreads) {
      const SampleBias bias = a_.bias[settings_.first_bias + i];
      const int item = bias.id - first_id();
      if (bias.id < 0 || bias.id >= a_.vocab || item < 0 || item >= kSlice) continue;
      key(item) = __float_as_uint(logits_[bias.id] + bias.bias);
    }
    __syncthreads();
    largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      logit[i] = __uint_as_float(key(i * kThreads + static_cast<int>(threadIdx.x)));
      largest = fmaxf(largest, logit[i]);
    }
    __syncthreads();
    return largest;
  }

  /// The warp's best candidate; `largest` is the thread's largest logit. Only the lanes that have
  /// the warp's largest look for its id.
  __device__ __forceinline__ Word best_of_warp(const Logits& logit, float largest) const {
    const uint32_t most = __reduce_max_sync(~0u, order_key(largest));
    int id = INT_MAX;
    if (order_key(largest) == most) {
#pragma unroll
      for (int i = kItems - 1; i >= 0; --i) {
        if (logit[i] == largest) id = id_of(i);
      }
    }
    return candidate(most, __reduce_min_sync(~0u, id));
  }

  /// Publishes the block's part, `p` being the lanes' with what their warp has in common.
  __device__ __forceinline__ void publish_part(Part p) {
    p = join_warp(p);
    if (threadIdx.x % 32 == 0) m_.warps[threadIdx.x / 32] = p;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    p = join_warp(m_.warps[threadIdx.x % kWarps]);
    if (num_top() > 0) join_sums(p, m_.warps, kWarps);
    if (threadIdx.x == 0) state_.parts[part_] = p;
  }

  /// Joins the parts, for this block and for the kernels behind this one.
  __device__ __forceinline__ void join_parts() {
    if (threadIdx.x < 32) {
      Part p{0, 0.0, -INFINITY, ~0u, 0, 0};
      for (int i = threadIdx.x; i < parts_; i += 32) {
        const Part* next = &state_.parts[i];
        p.best = max(p.best, __ldcg(&next->best));
        p.fault = min(p.fault, __ldcg(&next->fault));
        p.finite |= __ldcg(&next->finite);
      }
      p = join_warp(p);
      if (num_top() > 0) join_sums(p, state_.parts, parts_);
      if (threadIdx.x == 0) {
        m_.warps[0] = state_.row = p;
        if (num_top() > 0) state_.logprob_base = static_cast<double>(p.largest) + log(p.sum);
      }
    }
    __syncthreads();
    whole_ = {m_.warps[0].best, m_.warps[0].fault, m_.warps[0].finite};
  }

  /// What join_parts found in a kernel before this one.
  __device__ __forceinline__ void read_row() {
    whole_.best = __ldcg(&state_.row.best);
    whole_.fault = __ldcg(&state_.row.fault);
    whole_.finite = __ldcg(&state_.row.finite);
  }
  __device__ __forceinline__ double logprob(int id) const {
    return logits_[id] - __ldcg(&state_.logprob_base);
  }

  __device__ __forceinline__ Workspace& workspace() const {
    return *static_cast<Workspace*>(a_.workspace);
  }

  /// Stores the token; called by all threads of one block.
  __device__ __forceinline__ void finish(int id) {
    if (threadIdx.x != 0) return;
    SampleToken token;
    token.id = id;
    if (whole_.fault != ~0u) {
      token.id = static_cast<int>(whole_.fault);
      token.fault = isnan(logits_[token.id]) ? SampleFault::kNan : SampleFault::kInfinity;
    } else if (whole_.finite == 0) {
      token.id = 0;
      token.fault = SampleFault::kNothingFinite;
    } else if (num_top() > 0) {
      token.logprob = logprob(id);
    }
    a_.tokens[row_] = token;
    if (a_.ids != nullptr) a_.ids[row_] = token.fault == SampleFault::kNone ? token.id : -1;
  }

  __device__ __forceinline__ void store_drawn(int id) {
    SampleToken token;
    token.id = id;
    if (num_top() > 0) token.logprob = logprob(id);
    a_.tokens[row_] = token;
    if (a_.ids != nullptr) a_.ids[row_] = id;
  }

  /// The share of a weight, below it even where the product is rounded up.
  static __device__ __forceinline__ double drawn_mass(double share, double kept) {
    const double mass = share * kept;
    return mass < kept ? mass : __longlong_as_double(__double_as_longlong(kept) - 1);
  }

  __device__ __forceinline__ uint32_t sum_block(uint32_t own) {
    own = __reduce_add_sync(~0u, own);
    if (threadIdx.x % 32 == 0) m_.warp_count[threadIdx.x / 32] = own;
    __syncthreads();
    uint32_t sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += m_.warp_count[i];
    __syncthreads();
    return sum;
  }

  /// Appends the thread's logits that `takes` says to a list; called by whole warps.
  __device__ __forceinline__ void append(Word* list, uint32_t* length, const Logits& logit,
                                         uint32_t takes) const {
    const uint32_t own = __popc(takes), all = __reduce_add_sync(~0u, own);
    if (all == 0) return;
    const int lane = threadIdx.x % 32;
    uint32_t at = lane == 0 ? atomicAdd(length, all) : 0;
    uint32_t until = own;
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t other = __shfl_up_sync(~0u, until, offset);
      if (lane >= offset) until += other;
    }
    at = __shfl_sync(~0u, at, 0) + until - own;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (takes >> i & 1) list[at++] = candidate(order_key(logit[i]), id_of(i));
    }
  }

  const SampleArgs& a_;
  RowMemory& m_;
  RowState& state_;
  const SampleSettings& settings_;
  const float* logits_;
  int row_, part_, parts_;
  int slice_;  ///< of the row, which the block looks at

 private:
  /// Largest logit and sum of exponentials of `count` parts; called by a whole warp.
  static __device__ __forceinline__ void join_sums(Part& p, const Part* parts, int count) {
    p.largest = -INFINITY;
    p.sum = 0.0;
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      p.largest = fmaxf(p.largest, load_once(&parts[i].largest));
    }
    p.largest = key_value(__reduce_max_sync(~0u, order_key(p.largest)));
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      const double sum = load_once(&parts[i].sum);
      if (sum == 0.0) continue;
      p.sum += sum * exp(static_cast<double>(load_once(&parts[i].largest)) - p.largest);
    }
    p.sum = sum_warp(p.sum);
  }
  /// Past the first-level cache, which knows nothing of other blocks' stores.
  template <class T>
  static __device__ __forceinline__ T load_once(const T* from) {
    return *static_cast<const volatile T*>(from);
  }

  /// The row's parts joined, without their sums.
  struct {
    Word best;
    uint32_t fault, finite;
  } whole_;
};

}  // namespace kv8::sample
