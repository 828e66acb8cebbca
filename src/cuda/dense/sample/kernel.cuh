// From rows of logits to tokens. See docs/dense-kernels.md for the design.
//
// Every row has a team of blocks, each of which keeps 4,096 logits in shared memory; one launch
// does everything, and a greedy row is finished by the block that comes last.
#pragma once

#include "cuda/dense/sample/select.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

struct Memory {
  SelectMemory select;
  Word warp_best[kWarps];
  double warp_sum[kWarps];
  float warp_largest[kWarps];
  uint32_t warp_fault[kWarps], warp_finite[kWarps], warp_matches[kWarps];
  Part row;             ///< the row's parts joined
  double logprob_base;  ///< log of the row's sum of exponentials
  SampleSettings settings;
};

/// The same part with its sum relative to a larger logit.
__device__ __forceinline__ Part rebased(Part p, float largest) {
  if (p.sum != 0.0) p.sum *= exp(static_cast<double>(p.largest) - largest);
  p.largest = largest;
  return p;
}

/// Joins two parts of one base.
__device__ __forceinline__ Part join(const Part& a, const Part& b) {
  return {max(a.best, b.best),   a.sum + b.sum,       a.largest,
          min(a.fault, b.fault), a.finite | b.finite, a.matches + b.matches};
}

__device__ __forceinline__ Part join_warp(Part p) {
  float largest = p.largest;
  for (int offset = 1; offset < 32; offset *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  }
  p = rebased(p, largest);
#pragma unroll 1
  for (int offset = 1; offset < 32; offset *= 2) {
    const Part other{__shfl_xor_sync(~0u, p.best, offset),
                     __shfl_xor_sync(~0u, p.sum, offset),
                     largest,
                     __shfl_xor_sync(~0u, p.fault, offset),
                     __shfl_xor_sync(~0u, p.finite, offset),
                     __shfl_xor_sync(~0u, p.matches, offset)};
    p = join(p, other);
  }
  return p;
}

__device__ __forceinline__ Part empty_part() { return {0, 0.0, -INFINITY, ~0u, 0, 0}; }

__device__ __forceinline__ Part load_part(const Part* from) {
  return {__ldcg(&from->best),  __ldcg(&from->sum),    __ldcg(&from->largest),
          __ldcg(&from->fault), __ldcg(&from->finite), __ldcg(&from->matches)};
}

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

class RowSampler {
 public:
  __device__ __forceinline__ RowSampler(const SampleArgs& args, Memory& memory, RowState& state,
                                        int row, int part, int parts)
      : a_(args),
        m_(memory),
        state_(state),
        logits_(args.logits + static_cast<int64_t>(row) * args.vocab),
        row_(row),
        part_(part),
        parts_(parts),
        selector_(memory.select, state, part, parts) {}

  __device__ __forceinline__ void run() {
    read_slice();
    const bool greedy = m_.settings.temperature == 0.0f || m_.settings.top_k == 1;
    if (greedy && num_top() == 0) {
      if (!selector_.team().arrive_last()) return;
      join_parts();
      finish(best());
      return;
    }
    selector_.clear();
    if (part_ == 0 && threadIdx.x == 0) state_.gathered = 0;
    selector_.team().barrier();
    join_parts();
    if (faulty()) {
      if (part_ == 0) finish(best());
    } else {
      if (greedy) {
        if (part_ == 0) finish(best());
      } else {
        draw();
      }
      if (num_top() > 0) report_top();
    }
    selector_.team().leave();
  }

 private:
  __device__ __forceinline__ int num_top() const { return m_.settings.num_logprobs; }
  __device__ __forceinline__ int first_id() const { return part_ * kSlice; }
  __device__ __forceinline__ uint32_t& key(int item) { return m_.select.keys[item]; }
  __device__ __forceinline__ bool faulty() const {
    return m_.row.fault != ~0u || m_.row.finite == 0;
  }
  __device__ __forceinline__ int best() const { return candidate_id(m_.row.best); }

  __device__ __forceinline__ void read_settings() {
    if (threadIdx.x == 0) {
      m_.settings = a_.settings[row_];
      const int most = a_.top == nullptr ? 0 : min(kSampleMaxLogprobs, a_.vocab);
      m_.settings.num_logprobs = max(0, min(m_.settings.num_logprobs, most));
    }
    __syncthreads();
  }

  /// Reads the block's logits, adds the biases, and publishes the block's part.
  __device__ __forceinline__ void read_slice() {
    float logit[kItems];
    Part p = empty_part();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int id = first_id() + i * kThreads + static_cast<int>(threadIdx.x);
      logit[i] = id < a_.vocab ? logits_[id] : -INFINITY;
    }
    read_settings();  // requested behind the logits, not before or after them
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = i * kThreads + static_cast<int>(threadIdx.x), id = first_id() + item;
      key(item) = id < a_.vocab ? order_key(logit[i]) : 0;
      if (isnan(logit[i]) || logit[i] == INFINITY)
        p.fault = min(p.fault, static_cast<uint32_t>(id));
      p.finite |= isfinite(logit[i]);
      p.largest = fmaxf(p.largest, logit[i]);
    }
    if (num_top() > 0 && p.largest > -INFINITY) {
#pragma unroll 4
      for (int i = 0; i < kItems; ++i) {
        const uint32_t own = key(i * kThreads + static_cast<int>(threadIdx.x));
        const double weight = exp(static_cast<double>(key_value(own)) - p.largest);
        p.sum += own == 0 ? 0.0 : weight;
      }
    }
    __syncthreads();
    add_biases();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int item = i * kThreads + static_cast<int>(threadIdx.x);
      if (key(item) != 0) p.best = max(p.best, candidate(key(item), first_id() + item));
    }
    p = join_block(p);
    if (threadIdx.x == 0) state_.parts[part_] = p;
  }

  __device__ __forceinline__ void add_biases() {
    if (a_.bias == nullptr) return;
    for (int i = threadIdx.x; i < m_.settings.num_bias; i += kThreads) {
      const SampleBias bias = a_.bias[m_.settings.first_bias + i];
      const int item = bias.id - first_id();
      if (bias.id < 0 || bias.id >= a_.vocab || item < 0 || item >= kSlice) continue;
      key(item) = order_key(logits_[bias.id] + bias.bias);
    }
    __syncthreads();
  }

  __device__ __forceinline__ Part join_block(Part p) {
    p = join_warp(p);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) {
      m_.warp_best[warp] = p.best, m_.warp_sum[warp] = p.sum, m_.warp_largest[warp] = p.largest;
      m_.warp_fault[warp] = p.fault, m_.warp_finite[warp] = p.finite;
      m_.warp_matches[warp] = p.matches;
    }
    __syncthreads();
    p = empty_part();
    if (lane < kWarps) {
      p = {m_.warp_best[lane],  m_.warp_sum[lane],    m_.warp_largest[lane],
           m_.warp_fault[lane], m_.warp_finite[lane], m_.warp_matches[lane]};
    }
    return join_warp(p);
  }

  __device__ __forceinline__ void join_parts() {
    if (threadIdx.x < 32) {
      Part p = empty_part();
#pragma unroll 2
      for (int i = threadIdx.x; i < parts_; i += 32) {
        const Part next = load_part(&state_.parts[i]);
        const float largest = fmaxf(p.largest, next.largest);
        p = join(rebased(p, largest), rebased(next, largest));
      }
      p = join_warp(p);
      if (threadIdx.x == 0) {
        m_.row = p;
        if (num_top() > 0) m_.logprob_base = static_cast<double>(p.largest) + log(p.sum);
      }
    }
    __syncthreads();
  }

  /// Stores the token; called by all threads of one block.
  __device__ __forceinline__ void finish(int id) {
    if (threadIdx.x != 0) return;
    SampleToken token;
    token.id = id;
    if (m_.row.fault != ~0u) {
      token.id = static_cast<int>(m_.row.fault);
      token.fault = isnan(logits_[token.id]) ? SampleFault::kNan : SampleFault::kInfinity;
    } else if (m_.row.finite == 0) {
      token.id = 0;
      token.fault = SampleFault::kNothingFinite;
    } else if (num_top() > 0) {
      token.logprob = logits_[id] - m_.logprob_base;
    }
    a_.tokens[row_] = token;
    if (a_.ids != nullptr) a_.ids[row_] = token.fault == SampleFault::kNone ? token.id : -1;
  }

  __device__ __forceinline__ void draw() {
    selector_.begin({key_value(static_cast<uint32_t>(m_.row.best >> 32)),
                     1.0 / static_cast<double>(m_.settings.temperature)});
    double kept = selector_.total();  // weight of the tokens that are still in
                                      // One loop, so that the search is compiled once.
#pragma unroll 1
    for (int i = Goal::kCount; i <= Goal::kExceed; ++i) {
      const auto kind = static_cast<Goal::Kind>(i);
      const int top_k = m_.settings.top_k;
      if (kind == Goal::kCount && (top_k <= 0 || top_k >= a_.vocab)) continue;
      if (kind == Goal::kReach && m_.settings.top_p >= 1.0f) continue;
      const double share = kind == Goal::kReach ? static_cast<double>(m_.settings.top_p)
                                                : uniform_at(m_.settings.seed, m_.settings.step);
      double mass = share * kept;
      if (kind == Goal::kExceed && mass >= kept) {  // rounded up
        mass = __longlong_as_double(__double_as_longlong(kept) - 1);
      }
      kept = selector_.find({kind, static_cast<uint32_t>(top_k), mass}).prefix.mass.value();
    }
    const Place& place = selector_.found();
    for_matches(place, [&](int id, uint32_t rank) {
      if (rank == place.rank) store_drawn(id);
    });
  }

  __device__ __forceinline__ void store_drawn(int id) {
    SampleToken token;
    token.id = id;
    if (num_top() > 0) token.logprob = logits_[id] - m_.logprob_base;
    a_.tokens[row_] = token;
    if (a_.ids != nullptr) a_.ids[row_] = id;
  }

  /// Calls act(id, rank among the row's matches) for the block's logits that equal the place's.
  template <class Act>
  __device__ __forceinline__ void for_matches(const Place& place, Act act) {
    if (place.matches == 1) {
#pragma unroll 4
      for (int i = threadIdx.x; i < kSlice; i += kThreads) {
        if (key(i) == place.key) act(first_id() + i, 0u);
      }
      __syncthreads();
      return;
    }
    constexpr int kPerWarp = kSlice / kWarps;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = warp * kPerWarp;
    uint32_t own = 0;
    for (int i = lane; i < kPerWarp; i += 32) own += key(first + i) == place.key;
    own = __reduce_add_sync(~0u, own);
    if (lane == 0) m_.warp_matches[warp] = own;
    __syncthreads();
    uint32_t rank = 0;
    for (int i = 0; i < warp; ++i) rank += m_.warp_matches[i];
    if (threadIdx.x == kThreads - 1) state_.parts[part_].matches = rank + own;
    selector_.team().barrier();
    for (int i = 0; i < part_; ++i) rank += __ldcg(&state_.parts[i].matches);
    for (int i = lane; i < kPerWarp; i += 32) {
      const bool match = key(first + i) == place.key;
      const uint32_t ballot = __ballot_sync(~0u, match);
      if (match) act(first_id() + first + i, rank + __popc(ballot & ((1u << lane) - 1)));
      rank += __popc(ballot);
    }
    __syncthreads();
  }

  /// Finds the likeliest tokens without bias, and lets one block put them in order.
  __device__ __forceinline__ void report_top() {
    if (m_.settings.num_bias > 0 && a_.bias != nullptr) {
      for (int i = threadIdx.x; i < kSlice; i += kThreads) {
        const int id = first_id() + i;
        key(i) = id < a_.vocab ? order_key(logits_[id]) : 0;
      }
      __syncthreads();
    }
    selector_.begin({m_.row.largest, 1.0});
    const Place& place = selector_.find({Goal::kCount, static_cast<uint32_t>(num_top()), 0.0});
    const auto gather = [&](int id, uint32_t k) {
      state_.top[atomicAdd(&state_.gathered, 1u)] = candidate(k, id);
    };
    for (int i = threadIdx.x; i < kSlice; i += kThreads) {
      if (key(i) > place.key) gather(first_id() + i, key(i));
    }
    for_matches(place, [&](int id, uint32_t rank) {
      if (rank <= place.rank) gather(id, place.key);
    });
    selector_.team().barrier();
    const int i = threadIdx.x;
    if (part_ != 0 || i >= num_top()) return;
    const Word own = __ldcg(&state_.top[i]);
    int rank = 0;
    for (int j = 0; j < num_top(); ++j) rank += __ldcg(&state_.top[j]) > own;
    const int id = candidate_id(own);
    a_.top[static_cast<int64_t>(row_) * kSampleMaxLogprobs + rank] = {
        id, 0, logits_[id] - m_.logprob_base};
  }

  const SampleArgs& a_;
  Memory& m_;
  RowState& state_;
  const float* logits_;
  int row_, part_, parts_;
  Selector selector_;
};

/// With `tickets` blocks take their places in the order in which they start, so that the blocks
/// that a waiting one waits for are never behind blocks that wait themselves.
__global__ __launch_bounds__(kThreads, 2) void sample_rows(const __grid_constant__ SampleArgs a,
                                                           int parts, bool tickets) {
  extern __shared__ __align__(16) char shared[];
  __shared__ uint32_t ticket;
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  auto* workspace = static_cast<Workspace*>(a.workspace);
  if (threadIdx.x == 0) ticket = tickets ? atomicAdd(&workspace->ticket, 1u) : blockIdx.x;
  __syncthreads();
  const int row = static_cast<int>(ticket) / parts, part = static_cast<int>(ticket) % parts;
  RowSampler(a, *reinterpret_cast<Memory*>(shared), workspace->rows[row], row, part, parts).run();
  if (!tickets || threadIdx.x != 0) return;
  if (atomicAdd(&workspace->finished, 1u) + 1 == gridDim.x) {
    workspace->ticket = workspace->finished = 0;
  }
}

}  // namespace kv8::sample
