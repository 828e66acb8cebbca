// A look at every row, which is all that rows need of which few logits matter: greedy ones and
// small top_k. Log-probabilities are reported here for all rows. See docs/dense-kernels.md.
//
// A block says what its best logit is, lists what may be among the row's top_k and its likeliest
// tokens, and goes; nothing waits. The block that comes last finishes the row. The tokens of other
// rows are left to sample_weigh, sample_near and sample_team.
#pragma once

#include "cuda/dense/sample/row.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

/// Candidates that the last block puts in order. They take the place of its keys.
constexpr int kFinal = 512;

struct FewMemory {
  RowMemory row;
  Word warp_bound[kWarps];
  uint32_t finals;
  __device__ Word* candidates() { return reinterpret_cast<Word*>(row.keys); }
  __device__ Word* sorted() { return candidates() + kFinal; }
};
static_assert(sizeof(uint32_t[kSlice]) >= sizeof(Word[kFinal + kSampleFewTopK]));
static_assert(kSampleMaxLogprobs <= kSampleFewTopK);

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
    Part p = inspect(logit);
    float largest = p.largest;
    if (num_top() > 0) {
      add_up(logit, p);
      list(likeliest(), logit, largest);
    }
    largest = add_biases(logit, largest);
    p.best = best_of_warp(logit, largest);
    if (draws() && !from_likeliest()) list(kept(), logit, largest);
    publish_part(p);
    if (!few()) clear();
    if (!team_.arrive_last()) return;
    join_parts();
    if (faulty()) {
      finish(best());
    } else {
      if (num_top() > 0) report();
      if (few()) choose();
      if (!few() && !whole_row() && threadIdx.x == 0) workspace().add_team(row_);
    }
    if (threadIdx.x == 0) state_.listed = state_.top_listed = 0;
  }

 private:
  /// Whether a token is drawn here.
  __device__ __forceinline__ bool draws() const { return few() && !greedy(); }
  /// Whether it is among the likeliest ones that are listed anyway.
  __device__ __forceinline__ bool from_likeliest() const {
    return num_top() > 0 && num_bias() == 0;
  }

  /// A list of the row's: the logits that may be among its `wanted` largest.
  struct List {
    Word* words;
    uint32_t* length;
    int room;  ///< for each block's
    int wanted;
    float least;  ///< logit that there may be anything to say about
  };
  __device__ __forceinline__ List likeliest() {
    const int wanted = draws() && from_likeliest() ? max(num_top(), settings_.top_k) : num_top();
    const int room = few() && from_likeliest() ? kListed : kTopListed;
    return {state_.candidates, &state_.top_listed, room / parts_, wanted, -INFINITY};
  }
  /// Without those of weight zero.
  __device__ __forceinline__ List kept() {
    const int first = num_top() > 0 ? kTopListed : 0;
    return {state_.candidates + first, &state_.listed, (kListed - first) / parts_, settings_.top_k,
            -FLT_MAX};
  }

  /// Empties what the other kernels count in.
  __device__ __forceinline__ void clear() {
    const int first = part_ * kThreads + static_cast<int>(threadIdx.x), step = parts_ * kThreads;
    for (int i = first; i < kHistograms * kBuckets; i += step) {
      state_.team.buckets[i / kBuckets][i % kBuckets] = Bucket{};
    }
    for (int i = first; i < kFine; i += step) state_.team.fine[i] = 0;
    if (first == 0) state_.gathered = 0;
  }

  /// A value that at least `wanted` others reach, from the best one of each thread: as many of each
  /// warp's as make that number together. About 2% of random logits reach it for 50.
  template <class T>
  __device__ __forceinline__ T bound(T best, int wanted) {
    const int rank = (wanted + kWarps - 1) / kWarps;
    const T own = __shfl_sync(~0u, sort_warp(best), rank - 1);
    if (threadIdx.x % 32 == 0) f_.warp_bound[threadIdx.x / 32] = own;
    __syncthreads();
    Word least = f_.warp_bound[0];
    for (int i = 1; i < kWarps; ++i) least = min(least, f_.warp_bound[i]);
    return static_cast<T>(least);
  }

  /// The `wanted`-th largest word, bit by bit. `reaching(word)`: how many of the thread's reach it.
  template <class Reaching>
  __device__ __forceinline__ Word exact_bound(int wanted, Reaching reaching) {
    Word word = 0;
#pragma unroll 1
    for (int bit = 63; bit >= 0; --bit) {
      const Word larger = word | Word{1} << bit;
      if (sum_block(reaching(larger)) >= static_cast<uint32_t>(wanted)) word = larger;
    }
    return word;
  }

  /// Adds the block's share to a list.
  __device__ __forceinline__ void list(const List& list, const Logits& logit, float largest) {
    const float least = fmaxf(key_value(bound(order_key(largest), list.wanted)), list.least);
    uint32_t takes = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      takes |= (logit[i] >= least && id_of(i) < a_.vocab ? 1u : 0u) << i;
    }
    if (sum_block(__popc(takes)) > static_cast<uint32_t>(list.room)) {
      takes = exactly(list, logit);  // many equal ones, or by bad luck
    }
    append(list.words, list.length, logit, takes);
  }

  /// Which of the thread's logits are among the block's largest; there are as many as wanted.
  __device__ __forceinline__ uint32_t exactly(const List& list, const Logits& logit) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key(i * kThreads + static_cast<int>(threadIdx.x)) =
          logit[i] >= list.least && id_of(i) < a_.vocab ? order_key(logit[i]) : 0;
    }
    const Word least = exact_bound(list.wanted, [&](Word word) {
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

  /// Calls act(word) for the thread's share of a list.
  template <class Act>
  static __device__ __forceinline__ void for_listed(const Word* words, int length, Act act) {
#pragma unroll 8
    for (int at = threadIdx.x; at < length; at += kThreads) act(__ldcg(&words[at]));
  }

  /// Gathers a list's words that reach a bound of it; returns how many, at least as many as wanted
  /// if there are, at most kFinal.
  __device__ __forceinline__ int gather(const List& list) {
    const auto length = static_cast<int>(__ldcg(list.length));
    Word best = 0;
    for_listed(list.words, length, [&](Word word) { best = max(best, word); });
    Word least = bound(best, list.wanted);
    for (;;) {
      if (threadIdx.x == 0) f_.finals = 0;
      __syncthreads();
      for_listed(list.words, length, [&](Word word) {
        if (word < least) return;
        const uint32_t at = atomicAdd(&f_.finals, 1u);
        if (at < kFinal) f_.candidates()[at] = word;
      });
      __syncthreads();
      const uint32_t count = f_.finals;
      __syncthreads();
      if (count <= kFinal) return static_cast<int>(count);
      least = exact_bound(list.wanted, [&](Word word) {
        uint32_t own = 0;
        for_listed(list.words, length, [&](Word listed) { own += listed >= word; });
        return own;
      });
    }
  }

  /// Puts a list's largest in order; returns how many there are.
  __device__ __forceinline__ int sort(const List& list) {
    const int count = gather(list);
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const Word own = f_.candidates()[i];
      int rank = 0;
#pragma unroll 4
      for (int j = 0; j < count; ++j) rank += f_.candidates()[j] > own;
      if (rank < list.wanted) f_.sorted()[rank] = own;
    }
    __syncthreads();
    return min(count, list.wanted);
  }

  /// Reports the likeliest tokens.
  __device__ __forceinline__ void report() {
    num_sorted_ = sort(likeliest());
    const int rank = threadIdx.x;
    if (rank >= num_top()) return;
    const int id = candidate_id(f_.sorted()[rank]);
    a_.top[static_cast<int64_t>(row_) * kSampleMaxLogprobs + rank] = {id, 0, logprob(id)};
  }

  __device__ __forceinline__ void choose() {
    if (greedy()) {
      finish(best());
    } else {
      draw(min(from_likeliest() ? num_sorted_ : sort(kept()), settings_.top_k));
    }
  }

  /// Draws among the first `count` of the sorted: one warp, two of them a lane.
  __device__ __forceinline__ void draw(int count) {
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
    if (settings_.top_p < 1.0f) {
      const double mass = static_cast<double>(settings_.top_p) * kept;
      const int edge = first([&](double p) { return p >= mass; });
      kept = __shfl_sync(~0u, edge % 2 == 0 ? prefix[0] : prefix[1], edge / 2);
    }
    const double mass = drawn_mass(uniform_at(settings_.seed, settings_.step), kept);
    const int drawn = first([&](double p) { return p > mass; });
    if (threadIdx.x == 0) store_drawn(candidate_id(f_.sorted()[drawn]));
  }

  FewMemory& f_;
  Team team_;
  int num_sorted_ = 0;
};

__global__ __launch_bounds__(kThreads, 4) void sample_few(const __grid_constant__ SampleArgs a,
                                                          int parts) {
  __shared__ __align__(16) FewMemory memory;
  ptx::wait_for_predecessors();
  ptx::start_dependents();  // which read what this kernel does not write
  auto* workspace = static_cast<Workspace*>(a.workspace);
  // Slices of all rows side by side, upwards; sample_weigh goes down and sample_near up again, so
  // that each begins with what the one before it has left in the second-level cache.
  const int row = static_cast<int>(blockIdx.x) % a.rows,
            part = static_cast<int>(blockIdx.x) / a.rows;
  FewSampler(a, memory, workspace->rows[row], row, part, parts).run();
}

}  // namespace kv8::sample
