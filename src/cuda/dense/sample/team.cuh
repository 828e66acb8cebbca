// Rows whose token depends on the weights of all logits, or that report log-probabilities. See
// docs/dense-kernels.md for the design.
//
// Comes behind sample_few, which has looked at the rows. Every row has a team of blocks, each of
// which keeps 4,096 logits in shared memory. Where few logits turn out to be left, one block
// finishes the row and the others make room for further rows.
#pragma once

#include <climits>

#include "cuda/dense/sample/fine.cuh"
#include "cuda/dense/sample/row.cuh"
#include "cuda/dense/sample/select.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

/// What is known when one block goes on alone, in units of 2^-56.
struct Near {
  double total;
  double before_edge;   ///< weight that the list lacks before the nucleus's edge
  double before_token;  ///< likewise before the token
};

struct TeamMemory {
  RowMemory row;
  union {
    FineMemory fine;  // before the search among what it leaves
    SelectMemory select;
  };
  uint32_t list_start;  ///< of this block's candidates in the row's list
  Near near;
};

class TeamSampler : RowReader {
 public:
  __device__ __forceinline__ TeamSampler(const SampleArgs& args, TeamMemory& memory,
                                         RowState& state, int row, int part, int parts)
      : RowReader(args, memory.row, state, row, part, parts),
        memory_(memory),
        selector_(memory.select, memory.row.keys, state, part, parts) {}

  __device__ __forceinline__ void run() {
    read_settings();
    if (few()) return;  // another kernel's
    Logits logit;
    request(logit);
    join_parts();  // sample_few's
    if (faulty()) {
      if (part_ == 0) finish(best());
      return;
    }
    add_biases(logit, 0.0f);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key(i * kThreads + static_cast<int>(threadIdx.x)) =
          id_of(i) < a_.vocab ? order_key(logit[i]) : 0;
    }
    __syncthreads();
    if (!greedy()) {
      draw();
    } else if (part_ == 0) {
      finish(best());
    }
    if (num_top() > 0) report_top();
    selector_.team().leave();
  }

 private:
  __device__ __forceinline__ void draw() {
    if (whole_row() && num_top() == 0 && !only_near()) return;
    selector_.begin(weighing());
    // Weight of the tokens that are still in.
    double kept = selector_.alone() ? memory_.near.total : selector_.total();
    // One loop, so that the search is compiled once.
#pragma unroll 1
    for (int i = Goal::kCount; i <= Goal::kExceed; ++i) {
      const auto kind = static_cast<Goal::Kind>(i);
      const int top_k = m_.settings.top_k;
      if (kind == Goal::kCount && whole_row()) continue;
      if (kind == Goal::kReach && m_.settings.top_p >= 1.0f) continue;
      const double share = kind == Goal::kReach ? static_cast<double>(m_.settings.top_p)
                                                : uniform_at(m_.settings.seed, m_.settings.step);
      const double mass = kind == Goal::kExceed ? drawn_mass(share, kept) : share * kept;
      double missing = 0.0;
      if (selector_.alone()) {
        missing = kind == Goal::kReach ? memory_.near.before_edge : memory_.near.before_token;
      }
      const Place& place = selector_.find({kind, static_cast<uint32_t>(top_k), mass - missing});
      kept = missing + place.prefix.mass.value();
    }
    const Place& place = selector_.found();
    if (selector_.alone()) {
      store_listed(place);
      return;
    }
    for_matches(place, [&](int id, uint32_t rank) {
      if (rank == place.rank) store_drawn(id);
    });
  }

  /// Whether top_k leaves everything in.
  __device__ __forceinline__ bool whole_row() const {
    return m_.settings.top_k <= 0 || m_.settings.top_k >= a_.vocab;
  }

  /// Lists the logits of the buckets in which the nucleus's edge and the token must lie, wherever
  /// in its bucket that edge is. One block goes on with them alone; false in the others. If they
  /// are too many for it, all go on with the row.
  __device__ __forceinline__ bool only_near() {
    FineHistogram fine(memory_.fine, state_.team.fine, weighing());
    fine.add(m_.keys);
    selector_.team().barrier();
    fine.sum_up();
    int edge = kFine;
    double least = fine.total(), most = least;
    if (m_.settings.top_p < 1.0f) {
      edge = fine.reaching(static_cast<double>(m_.settings.top_p) * most);
      least = fmax(fine.until(edge - 1), 0.5);  // the largest logit is in
      most = fine.until(edge);
    }
    const double u = uniform_at(m_.settings.seed, m_.settings.step);
    const int first = fine.exceeding(drawn_mass(u, least));
    const int last = fine.exceeding(drawn_mass(u, most));
    list([&](Word candidate) {
      const int b = fine.bucket_of(key_value(static_cast<uint32_t>(candidate >> 32)));
      return (b >= first && b <= last) || b == edge;
    });
    if (threadIdx.x == 0) {
      const bool apart = edge > last && edge < kFine;
      const double between = apart ? fine.until(edge - 1) - fine.until(last) : 0.0;
      const double before = fine.until(first - 1);
      memory_.near = {fine.total() * 0x1p56, (before + between) * 0x1p56, before * 0x1p56};
    }
    selector_.team().barrier();
    const uint32_t length = __ldcg(&state_.gathered);
    if (length > kSlice) return true;
    if (part_ != 0) return false;
    take_list(length);
    return true;
  }

  /// Appends the block's candidates that `takes` says to the row's list.
  template <class Takes>
  __device__ __forceinline__ void list(Takes takes) {
    uint32_t own = 0;
#pragma unroll 1
    for (int i = 0; i < kItems; ++i) {
      const Word word = item_candidate(i);
      own += word != 0 && takes(word);
    }
    uint32_t all;
    uint32_t at = sum_before(own, all);
    if (threadIdx.x == 0) memory_.list_start = atomicAdd(&state_.gathered, all);
    __syncthreads();
    at += memory_.list_start;
#pragma unroll 1
    for (int i = 0; i < kItems; ++i) {
      const Word word = item_candidate(i);
      if (word == 0 || !takes(word)) continue;
      if (at < kSlice) state_.team.list[at] = word;
      ++at;
    }
  }

  /// Makes the list the block's keys.
  __device__ __forceinline__ void take_list(uint32_t length) {
    for (uint32_t i = threadIdx.x; i < kSlice; i += kThreads) {
      key(i) = i < length ? static_cast<uint32_t>(__ldcg(&state_.team.list[i]) >> 32) : 0;
    }
    __syncthreads();
    selector_.go_alone();
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

  /// Calls act(id, rank among the row's matches) for the block's logits that equal the place's.
  template <class Act>
  __device__ __forceinline__ void for_matches(const Place& place, Act act) {
    if (place.matches == 1) {
#pragma unroll 1
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
    if (lane == 0) m_.warp_count[warp] = own;
    __syncthreads();
    uint32_t rank = 0;
    for (int i = 0; i < warp; ++i) rank += m_.warp_count[i];
    if (threadIdx.x == kThreads - 1) state_.parts[part_].listed = rank + own;
    selector_.team().barrier();
    for (int i = 0; i < part_; ++i) rank += __ldcg(&state_.parts[i].listed);
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
      state_.team.list[atomicAdd(&state_.gathered, 1u)] = candidate(k, id);
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
    const Word own = __ldcg(&state_.team.list[i]);
    int rank = 0;
    for (int j = 0; j < num_top(); ++j) rank += __ldcg(&state_.team.list[j]) > own;
    const int id = candidate_id(own);
    a_.top[static_cast<int64_t>(row_) * kSampleMaxLogprobs + rank] = {
        id, 0, logits_[id] - m_.logprob_base};
  }

  TeamMemory& memory_;
  Selector selector_;
};

/// With `tickets` blocks take their places in the order in which they start, so that the blocks
/// that a waiting one waits for are never behind blocks that wait themselves.
__global__ __launch_bounds__(kThreads, 4) void sample_rows(const __grid_constant__ SampleArgs a,
                                                           int parts, bool tickets) {
  extern __shared__ __align__(16) char shared[];
  __shared__ uint32_t ticket;
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  auto* workspace = static_cast<Workspace*>(a.workspace);
  if (threadIdx.x == 0) ticket = tickets ? atomicAdd(&workspace->ticket, 1u) : blockIdx.x;
  __syncthreads();
  const int row = static_cast<int>(ticket) / parts, part = static_cast<int>(ticket) % parts;
  TeamSampler(a, *reinterpret_cast<TeamMemory*>(shared), workspace->rows[row], row, part, parts)
      .run();
  if (!tickets || threadIdx.x != 0) return;
  if (atomicAdd(&workspace->finished, 1u) + 1 == gridDim.x) {
    workspace->ticket = workspace->finished = 0;
  }
}

}  // namespace kv8::sample
