// The tokens of rows of which sample_weigh left few logits to look at. Every block lists its share
// of them and goes; the one that comes last draws. See docs/dense-kernels.md.
#pragma once

#include <climits>

#include "cuda/dense/sample/fine.cuh"
#include "cuda/dense/sample/search.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

/// A list of up to as many is put in order: a thread each, and 255 weights of at most 2^56 fit.
constexpr int kShort = kThreads - 1;

struct ShortList {
  Word words[kThreads], sorted[kThreads];
  Word warp_units[kWarps];
  double kept;
};

struct NearMemory {
  SearchMemory search;
  ShortList list;
  uint32_t most_key, least_key;  ///< of a long list
};

class NearSampler : RowSearch {
 public:
  __device__ __forceinline__ NearSampler(const SampleArgs& args, NearMemory& memory,
                                         RowState& state, int row, int part, int parts)
      : RowSearch(args, memory.search, state, row, part, parts), memory_(memory) {}

  __device__ __forceinline__ void run() {
    const bool wanted = !few() && whole_row();
    Logits logit;
    if (wanted) request(logit);  // sample_few waited for them before this kernel started
    ptx::wait_for_predecessors();
    ptx::start_dependents();
    if (!wanted) return;
    read_row();
    near_ = {__ldcg(&state_.near.alone), __ldcg(&state_.near.first), __ldcg(&state_.near.last),
             __ldcg(&state_.near.edge)};
    if (faulty() || near_.alone == 0) return;
    const FineBuckets buckets(weighing());
#pragma unroll 1
    for (;;) {
      add_biases(logit, 0.0f);
      list(logit, buckets);
      slice_ += parts_;
      if (first_id() >= a_.vocab) break;
      request(logit);
    }
    if (!selector_.team().arrive_last()) return;
    const uint32_t length = __ldcg(&state_.gathered);
    const double total = __ldcg(&state_.near.total);
    const double before_edge = __ldcg(&state_.near.before_edge);
    const double before_token = __ldcg(&state_.near.before_token);
    if (length <= kShort) {
      draw_sorted(static_cast<int>(length), total, before_edge, before_token);
    } else {
      take_list(length);
      store_listed(search(total, before_edge, before_token));
    }
  }

 private:
  /// Appends the thread's logits in the buckets that sample_weigh found to the row's list.
  __device__ __forceinline__ void list(const Logits& logit, const FineBuckets& buckets) {
    // In FP32 first, whose places are off by at most 3 * 2^-24 of kFine.
    constexpr float kClose = 1e-3f;
    const auto largest = static_cast<float>(weighing().largest);
    const auto scale = static_cast<float>(32.0 * weighing().rate);
    const float middle = 0.5f * static_cast<float>(near_.first + near_.last);
    const float reach = 0.5f * static_cast<float>(near_.last - near_.first);
    const auto edge = static_cast<float>(near_.edge);
    uint32_t takes = 0, close = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const float place = (largest - logit[i]) * scale;
      const float past = fminf(fabsf(place - middle) - reach, fabsf(place - edge)) - 0.5f;
      takes |= (past < 0.0f ? 1u : 0u) << i;
      close |= (fabsf(past) > kClose ? 0u : 1u) << i;  // or no number
    }
    if (close != 0) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if ((close >> i & 1) == 0) continue;
        const int b = buckets.of(logit[i]);
        const bool in = (b >= near_.first && b <= near_.last) || b == near_.edge;
        takes = (takes & ~(1u << i)) | (in ? 1u : 0u) << i;
      }
    }
    append(state_.team.list, &state_.gathered, logit, takes);
  }

  /// Draws from a short list: what RowSearch::search does, token by token.
  __device__ __forceinline__ void draw_sorted(int length, double total, double before_edge,
                                              double before_token) {
    ShortList& list = memory_.list;
    const int place = threadIdx.x;
    const bool exists = place < length;
    const Word own = exists ? __ldcg(&state_.team.list[place]) : 0;
    list.words[place] = own;
    __syncthreads();
    int rank = 0;
#pragma unroll 4
    for (int i = 0; i < length; ++i) rank += list.words[i] > own;
    if (exists) list.sorted[rank] = own;
    __syncthreads();
    const Word token = exists ? list.sorted[place] : 0;
    const double until = __ull2double_rn(
        units_until(exists ? weighing().units(key_value(static_cast<uint32_t>(token >> 32))) : 0));
    // The first place that is good enough; the last one if rounding lets none.
    const auto first = [&](auto good) {
      return min(__syncthreads_count(exists && !good(until)), length - 1);
    };
    double kept = total;
    if (settings_.top_p < 1.0f) {
      const double mass = static_cast<double>(settings_.top_p) * kept - before_edge;
      if (place == first([&](double x) { return x >= mass; })) list.kept = before_edge + until;
      __syncthreads();
      kept = list.kept;
    }
    const double mass = drawn_mass(uniform_at(settings_.seed, settings_.step), kept) - before_token;
    if (place == first([&](double x) { return x > mass; })) store_drawn(candidate_id(token));
  }

  /// Sum of the units of this thread and those before it.
  __device__ __forceinline__ Word units_until(Word units) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int offset = 1; offset < 32; offset *= 2) {
      const Word other = __shfl_up_sync(~0u, units, offset);
      if (lane >= offset) units += other;
    }
    if (lane == 31) memory_.list.warp_units[warp] = units;
    __syncthreads();
    for (int i = 0; i < warp; ++i) units += memory_.list.warp_units[i];
    return units;
  }

  /// Makes the list the block's keys.
  __device__ __forceinline__ void take_list(uint32_t length) {
    uint32_t most = 0, least = ~0u;
    if (threadIdx.x == 0) memory_.most_key = 0, memory_.least_key = ~0u;
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < kItems; ++i) {
      const uint32_t at = i * kThreads + threadIdx.x;
      const uint32_t own =
          at < length ? static_cast<uint32_t>(__ldcg(&state_.team.list[at]) >> 32) : 0;
      key(static_cast<int>(at)) = own;
      if (own == 0) continue;
      most = max(most, own);
      least = min(least, own);
    }
    atomicMax(&memory_.most_key, most);
    atomicMin(&memory_.least_key, least);
    __syncthreads();
    selector_.begin_alone(weighing(), memory_.least_key, memory_.most_key);
  }

  /// Stores the token of a place in the list: of equal logits the one whose id has the place's
  /// rank, which is found bit by bit.
  __device__ __forceinline__ void store_listed(const Place& place) {
    const auto id_of = [&](int item) {
      return key(item) == place.key ? candidate_id(__ldcg(&state_.team.list[item])) : INT_MAX;
    };
    int id = 0;
    if (place.matches == 1) {
      for (int i = threadIdx.x; i < kSlice; i += kThreads) {
        if (key(i) == place.key) store_drawn(id_of(i));
      }
      return;
    }
#pragma unroll 1
    for (int bit = kSlice * kMaxParts / 2; bit > 0; bit /= 2) {
      uint32_t own = 0;
      for (int i = threadIdx.x; i < kSlice; i += kThreads) own += id_of(i) < id + bit;
      if (sum_block(own) <= place.rank) id += bit;
    }
    if (threadIdx.x == 0) store_drawn(id);
  }

  NearMemory& memory_;
  struct {
    uint32_t alone;
    int first, last, edge;
  } near_;
};

__global__ __launch_bounds__(kThreads, 4) void sample_near(const __grid_constant__ SampleArgs a,
                                                           int parts) {
  extern __shared__ __align__(16) char shared[];
  auto* workspace = static_cast<Workspace*>(a.workspace);
  const int row = static_cast<int>(blockIdx.x) / parts, part = static_cast<int>(blockIdx.x) % parts;
  NearSampler(a, *reinterpret_cast<NearMemory*>(shared), workspace->rows[row], row, part, parts)
      .run();
}

}  // namespace kv8::sample
