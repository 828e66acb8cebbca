// Rows whose token depends on the weights of all logits: where in the row's order it lies.
//
// Comes behind sample_few. Every block adds its logits to the row's histogram of weights and goes;
// the one that comes last finds the buckets that have to be looked at.
#pragma once

#include "cuda/dense/sample/fine.cuh"
#include "cuda/dense/sample/row.cuh"
#include "cuda/ptx/dependent_launch.cuh"

namespace kv8::sample {

struct WeighMemory {
  RowMemory row;
  FineMemory fine;
};

class Weigher : RowReader {
 public:
  __device__ __forceinline__ Weigher(const SampleArgs& args, WeighMemory& memory, RowState& state,
                                     int row, int part, int parts)
      : RowReader(args, memory.row, state, row, part, parts),
        fine_(memory.fine, state.team.fine),
        team_(state, parts) {}

  __device__ __forceinline__ void run() {
    const bool wanted = !few() && whole_row();
    slice_ = (a_.vocab - 1) / kSlice - part_;
    Logits logit;
    if (wanted) request(logit);  // sample_few waited for them before this kernel started
    ptx::wait_for_predecessors();
    ptx::start_dependents();
    if (!wanted) return;
    read_row();
    if (faulty()) return;
    fine_.clear();
    const FineBuckets buckets(weighing());
#pragma unroll 1
    for (;;) {
      // The next slice's are under way while this one's are added.
      Logits next;
      slice_ -= parts_;
      const bool more = slice_ >= 0;
      if (more) request(next);
      slice_ += parts_;
      add_biases(logit, 0.0f);
      fine_.add(logit, buckets);
      if (!more) break;
      slice_ -= parts_;
#pragma unroll
      for (int i = 0; i < kItems; ++i) logit[i] = next[i];
    }
    fine_.publish();
    if (team_.arrive_last()) find();
  }

 private:
  /// The buckets in which the nucleus's edge and the token must lie, wherever in its bucket that
  /// edge is.
  __device__ __forceinline__ void find() {
    fine_.sum_up();
    int edge = kFine;
    double least = fine_.total(), most = least;
    if (settings_.top_p < 1.0f) {
      edge = fine_.reaching(static_cast<double>(settings_.top_p) * most);
      least = fmax(fine_.until(edge - 1), 0.5);  // the largest logit is in
      most = fine_.until(edge);
    }
    const double u = uniform_at(settings_.seed, settings_.step);
    const int first = fine_.exceeding(drawn_mass(u, least));
    const int last = fine_.exceeding(drawn_mass(u, most));
    const uint32_t logits =
        sum_block(fine_.most_logits([&](int b) { return (b >= first && b <= last) || b == edge; }));
    if (threadIdx.x != 0) return;
    const bool apart = edge > last && edge < kFine;
    const double between = apart ? fine_.until(edge - 1) - fine_.until(last) : 0.0;
    const double before = fine_.until(first - 1);
    Near near;
    near.alone = logits <= kSlice;
    near.first = first;
    near.last = last;
    near.edge = edge < kFine ? edge : kNowhere;
    near.total = fine_.total() * 0x1p56;
    near.before_edge = (before + between) * 0x1p56;
    near.before_token = before * 0x1p56;
    state_.near = near;
    if (near.alone == 0) workspace().add_team(row_);
  }

  FineHistogram fine_;
  Team team_;
};

__global__ __launch_bounds__(kThreads, 4) void sample_weigh(const __grid_constant__ SampleArgs a,
                                                            int parts) {
  __shared__ __align__(16) WeighMemory memory;
  auto* workspace = static_cast<Workspace*>(a.workspace);
  const int row = static_cast<int>(blockIdx.x) / parts, part = static_cast<int>(blockIdx.x) % parts;
  Weigher(a, memory, workspace->rows[row], row, part, parts).run();
}

}  // namespace kv8::sample
