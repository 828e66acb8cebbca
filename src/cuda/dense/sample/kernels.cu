#include <algorithm>

#include "cuda/dense/sample/entry.h"
#include "cuda/dense/sample/few.cuh"
#include "cuda/dense/sample/near.cuh"
#include "cuda/dense/sample/team.cuh"
#include "cuda/dense/sample/weigh.cuh"
#include "cuda/dense/start.cuh"

namespace kv8::sample {

std::size_t workspace_bytes(int rows) {
  return offsetof(Workspace, rows) + sizeof(RowState) * static_cast<std::size_t>(rows);
}

namespace {

/// Blocks of a kernel that the current device holds at once.
template <class Kernel>
cudaError_t count_resident(Kernel* kernel, int shared_bytes, int& blocks) {
  int device = 0, multiprocessors = 0, each = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) {
    code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (code == cudaSuccess) {
    code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  }
  if (code == cudaSuccess) {
    code = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, kThreads, shared_bytes);
  }
  blocks = multiprocessors * each;
  return code;
}

}  // namespace

cudaError_t start_sample(const SampleArgs& args, cudaStream_t stream) {
  const int slices = (args.vocab + kSlice - 1) / kSlice, blocks = args.rows * slices;
  cudaError_t code = cudaSuccess;
  const auto start = [&](auto* kernel, int grid, std::size_t bytes, bool dependent, int parts) {
    if (code != cudaSuccess) return;
    code = dense::start(kernel, grid, kThreads, static_cast<int>(bytes), dependent, stream, args,
                        parts);
  };
  const auto look = [&] { start(sample_few, blocks, 0, args.dependent_launch, slices); };
  if (args.few_logits) {
    look();
    return code;
  }
  int weigh_room = 0, near_room = 0, team_room = 0;
  code = count_resident(sample_weigh, 0, weigh_room);
  if (code == cudaSuccess) code = count_resident(sample_near, sizeof(NearMemory), near_room);
  if (code == cudaSuccess) code = count_resident(sample_team, sizeof(SearchMemory), team_room);
  if (code == cudaSuccess && team_room < slices) return cudaErrorCooperativeLaunchTooLarge;
  const int weigh_parts = std::clamp(weigh_room / args.rows, 1, slices);
  const int near_parts = std::clamp(near_room / args.rows, 1, slices);
  // Which rows are finished by then depends on settings that only the device knows.
  look();
  start(sample_weigh, args.rows * weigh_parts, 0, true, weigh_parts);
  start(sample_near, args.rows * near_parts, sizeof(NearMemory), true, near_parts);
  start(sample_team, std::min(blocks, team_room), sizeof(SearchMemory), true, slices);
  return code;
}

}  // namespace kv8::sample
