// A look at every row, which is all that rows need of which few logits matter: greedy ones, and
// small top_k. See docs/dense-kernels.md.
//
// A block says what its best logit is, lists what may be among the row's top_k, and goes; nothing
// waits. The block that comes last finishes the row. Other rows are left to sample_rows.
#pragma once

#include "cuda/dense/sample/row.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

/// Candidates that the last block puts in order. They take the place of its keys.
constexpr int kFinal = 512;

struct FewMemory {
  RowMemory row;
  Word warp_bound[kWarps];
  uint32_t list_start, finals;
  __device__ Word* candidates() { return reinterpret_cast<Word*>(row.keys); }
  __device__ Word* sorted() { return candidates() + kFinal; }
};
static_assert(sizeof(uint32_t[kSlice]) >= sizeof(Word[kFinal + kFewTopK]));

/// Sorts one value of each lane, the largest into lane 0.
template <class T>
__device__ __forceinline__ T sort_warp(T value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int size = 2; size <= 32; size *= 2) {
#pragma unroll
    for (int stride = size / 2; stride > 0; stride /= 2) {
      const T other = __shfl_xor_sync(~0u, value, stride);
      const bool keeps_larger = ((lane & stride) == 0) == ((lane & size) == 0);
      value = keeps_larger ? max(value, other) : min(value, other);
    }
  }
  return value;
}

class FewSampler : RowReader {
 public:
  __device__ __forceinline__ FewSampler(const SampleArgs& args, FewMemory& memory, RowState& state,
                                        int row, int part, int parts)
      : RowReader(args, memory.row, state, row, part, parts), f_(memory), team_(state, parts) {}

  __device__ __forceinline__ void run() {
    Logits logit;
    request(logit);
    read_settings();  // requested behind the logits, not before or after them
    Part p = inspect(logit);
    const float largest = add_biases(logit, p.largest);
    p.best = best_of_warp(logit, largest);
    if (few() && !greedy()) list(logit, largest);
    publish_part(p);
    if (!few()) {
      clear();
      return;
    }
    if (!team_.arrive_last()) return;
    join_parts();
    if (faulty() || greedy()) {
      finish(best());
    } else {
      draw();
    }
    if (threadIdx.x == 0) state_.listed = 0;
  }

 private:
  __device__ __forceinline__ int top_k() const { return m_.settings.top_k; }

  /// Empties what sample_rows counts in.
  __device__ __forceinline__ void clear() {
    const int first = part_ * kThreads + static_cast<int>(threadIdx.x), step = parts_ * kThreads;
    for (int i = first; i < kHistograms * kBuckets; i += step) {
      state_.team.buckets[i / kBuckets][i % kBuckets] = Bucket{};
    }
    for (int i = first; i < kFine; i += step) state_.team.fine[i] = 0;
    if (first == 0) state_.gathered = 0;
  }

  /// A value that at least top_k others reach, from the best one of each thread: as many of each
  /// warp's as make top_k together. About 2% of random logits reach it with top_k 50.
  template <class T>
  __device__ __forceinline__ T bound(T best) {
    const int rank = (top_k() + kWarps - 1) / kWarps;
    const T own = __shfl_sync(~0u, sort_warp(best), rank - 1);
    if (threadIdx.x % 32 == 0) f_.warp_bound[threadIdx.x / 32] = own;
    __syncthreads();
    Word least = f_.warp_bound[0];
    for (int i = 1; i < kWarps; ++i) least = min(least, f_.warp_bound[i]);
    return static_cast<T>(least);
  }

  /// The top_k-th largest word, bit by bit. `reaching(word)`: how many of the thread's reach it.
  template <class Reaching>
  __device__ __forceinline__ Word exact_bound(Reaching reaching) {
    Word word = 0;
#pragma unroll 1
    for (int bit = 63; bit >= 0; --bit) {
      const Word larger = word | Word{1} << bit;
      if (sum_block(reaching(larger)) >= static_cast<uint32_t>(top_k())) word = larger;
    }
    return word;
  }

  /// Adds to the row's list what may be among its top_k, without those of weight zero.
  __device__ __forceinline__ void list(const Logits& logit, float largest) {
    const float least = fmaxf(key_value(bound(order_key(largest))), -FLT_MAX);
    uint32_t takes = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) takes |= (logit[i] >= least ? 1u : 0u) << i;
    uint32_t all, at = sum_before(__popc(takes), all);
    if (all > static_cast<uint32_t>(kListed / parts_)) {  // many equal ones, or by bad luck
      takes = exactly(logit);
      at = sum_before(__popc(takes), all);
    }
    if (threadIdx.x == 0) f_.list_start = atomicAdd(&state_.listed, all);
    __syncthreads();
    if (takes == 0) return;
    at += f_.list_start;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (takes >> i & 1) state_.candidates[at++] = candidate(order_key(logit[i]), id_of(i));
    }
  }

  /// Which of the thread's logits are among the block's top_k.
  __device__ __forceinline__ uint32_t exactly(const Logits& logit) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key(i * kThreads + static_cast<int>(threadIdx.x)) =
          logit[i] > -INFINITY ? order_key(logit[i]) : 0;
    }
    const Word least = exact_bound([&](Word word) {
      uint32_t own = 0;
#pragma unroll 1
      for (int i = 0; i < kItems; ++i) own += item_candidate(i) >= word;
      return own;
    });
    uint32_t takes = 0;
#pragma unroll 1
    for (int i = 0; i < kItems; ++i) takes |= (item_candidate(i) >= least ? 1u : 0u) << i;
    return takes;
  }

  /// Calls act(word) for the thread's share of the list.
  template <class Act>
  __device__ __forceinline__ void for_listed(int length, Act act) {
#pragma unroll 8
    for (int at = threadIdx.x; at < length; at += kThreads) act(__ldcg(&state_.candidates[at]));
  }

  /// Gathers the list's words that reach a bound of it; returns how many, at least top_k if there
  /// are as many, at most kFinal.
  __device__ __forceinline__ int gather() {
    const auto length = static_cast<int>(__ldcg(&state_.listed));
    Word best = 0;
    for_listed(length, [&](Word word) { best = max(best, word); });
    Word least = bound(best);
    for (;;) {
      if (threadIdx.x == 0) f_.finals = 0;
      __syncthreads();
      for_listed(length, [&](Word word) {
        if (word < least) return;
        const uint32_t at = atomicAdd(&f_.finals, 1u);
        if (at < kFinal) f_.candidates()[at] = word;
      });
      __syncthreads();
      const uint32_t count = f_.finals;
      __syncthreads();
      if (count <= kFinal) return static_cast<int>(count);
      least = exact_bound([&](Word word) {
        uint32_t own = 0;
        for_listed(length, [&](Word listed) { own += listed >= word; });
        return own;
      });
    }
  }

  /// Puts the top_k best in order; returns how many there are.
  __device__ __forceinline__ int sort() {
    const int count = gather();
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const Word own = f_.candidates()[i];
      int rank = 0;
#pragma unroll 4
      for (int j = 0; j < count; ++j) rank += f_.candidates()[j] > own;
      if (rank < top_k()) f_.sorted()[rank] = own;
    }
    __syncthreads();
    return min(count, top_k());
  }

  /// Draws among the sorted: one warp, two of them a lane.
  __device__ __forceinline__ void draw() {
    const int count = sort();
    if (threadIdx.x >= 32) return;
    const int place = 2 * static_cast<int>(threadIdx.x);
    Word units[2] = {0, 0};  // of 2^-56: 64 weights of at most 1 fit
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (place + i >= count) continue;
      units[i] = weighing().units(key_value(static_cast<uint32_t>(f_.sorted()[place + i] >> 32)));
    }
    Word until = units[0] + units[1];
    for (int offset = 1; offset < 32; offset *= 2) {
      const Word other = __shfl_up_sync(~0u, until, offset);
      if (static_cast<int>(threadIdx.x) >= offset) until += other;
    }
    const double prefix[2] = {__ull2double_rn(until - units[1]), __ull2double_rn(until)};
    // The first place whose prefix is good enough; the last one if rounding lets none.
    const auto first = [&](auto good) {
      int found = count - 1;
#pragma unroll
      for (int i = 1; i >= 0; --i) {
        if (place + i < count && good(prefix[i])) found = place + i;
      }
      return __reduce_min_sync(~0u, found);
    };
    double kept = __shfl_sync(~0u, prefix[1], 31);
    if (m_.settings.top_p < 1.0f) {
      const double mass = static_cast<double>(m_.settings.top_p) * kept;
      const int edge = first([&](double p) { return p >= mass; });
      kept = __shfl_sync(~0u, edge % 2 == 0 ? prefix[0] : prefix[1], edge / 2);
    }
    const double mass = drawn_mass(uniform_at(m_.settings.seed, m_.settings.step), kept);
    const int drawn = first([&](double p) { return p > mass; });
    if (threadIdx.x == 0) store_drawn(candidate_id(f_.sorted()[drawn]));
  }

  FewMemory& f_;
  Team team_;
};

__global__ __launch_bounds__(kThreads, 4) void sample_few(const __grid_constant__ SampleArgs a,
                                                          int parts) {
  __shared__ __align__(16) FewMemory memory;
  ptx::wait_for_predecessors();
  ptx::start_dependents();  // which read what this kernel does not write
  auto* workspace = static_cast<Workspace*>(a.workspace);
  const int row = static_cast<int>(blockIdx.x) / parts, part = static_cast<int>(blockIdx.x) % parts;
  FewSampler(a, memory, workspace->rows[row], row, part, parts).run();
}

}  // namespace kv8::sample
