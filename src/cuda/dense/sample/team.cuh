// The tokens of rows of which many logits have to be looked at: large top_k, and weights so even
// that sample_near has no room. See docs/dense-kernels.md.
//
// A row has a team of blocks, each of which keeps 4,096 logits in shared memory.
#pragma once

#include "cuda/dense/sample/search.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

class TeamSampler : RowSearch {
 public:
  __device__ __forceinline__ TeamSampler(const SampleArgs& args, SearchMemory& memory,
                                         RowState& state, int row, int part, int parts)
      : RowSearch(args, memory, state, row, part, parts) {}

  __device__ __forceinline__ void run() {
    Logits logit;
    request(logit);
    read_row();
    add_biases(logit, 0.0f);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key(i * kThreads + static_cast<int>(threadIdx.x)) =
          id_of(i) < a_.vocab ? order_key(logit[i]) : 0;
    }
    __syncthreads();
    selector_.begin(weighing());
    const Place& place = search(selector_.total(), 0.0, 0.0);
    for_matches(place, [&](int id, uint32_t rank) {
      if (rank == place.rank) store_drawn(id);
    });
    selector_.team().leave();
  }

 private:
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
};

/// Blocks take places in teams in the order in which they come for them, so that whoever waits does
/// not wait for a place that nobody is left to take.
__global__ __launch_bounds__(kThreads, 4) void sample_team(const __grid_constant__ SampleArgs a,
                                                           int parts) {
  extern __shared__ __align__(16) char shared[];
  __shared__ uint32_t ticket;
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  auto* workspace = static_cast<Workspace*>(a.workspace);
  const uint32_t places = __ldcg(&workspace->num_teams) * static_cast<uint32_t>(parts);
  if (places == 0) return;
  for (;;) {
    if (threadIdx.x == 0) ticket = atomicAdd(&workspace->ticket, 1u);
    __syncthreads();
    if (ticket >= places) break;
    const int team = static_cast<int>(ticket) / parts, part = static_cast<int>(ticket) % parts;
    const auto row = static_cast<int>(__ldcg(&workspace->rows[team].team_row));
    TeamSampler(a, *reinterpret_cast<SearchMemory*>(shared), workspace->rows[row], row, part, parts)
        .run();
    __syncthreads();
  }
  if (threadIdx.x == 0 && atomicAdd(&workspace->finished, 1u) + 1 == gridDim.x) {
    workspace->ticket = workspace->finished = workspace->num_teams = 0;
  }
}

}  // namespace kv8::sample
