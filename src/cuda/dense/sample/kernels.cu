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

/// Blocks of each kernel whose number follows the device.
struct Rooms {
  int weigh = 0, near = 0, team = 0;
  cudaError_t error = cudaSuccess;
};

Rooms count_rooms() {
  Rooms rooms;
  rooms.error = count_resident(sample_weigh, 0, rooms.weigh);
  if (rooms.error == cudaSuccess) {
    rooms.error = count_resident(sample_near, sizeof(NearMemory), rooms.near);
  }
  if (rooms.error == cudaSuccess) {
    rooms.error = count_resident(sample_team, sizeof(SearchMemory), rooms.team);
  }
  return rooms;
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
  static const Rooms rooms = count_rooms();
  if (rooms.error != cudaSuccess) return rooms.error;
  if (rooms.team < slices) return cudaErrorCooperativeLaunchTooLarge;
  const int weigh_parts = std::clamp(rooms.weigh / args.rows, 1, slices);
  const int near_parts = std::clamp(rooms.near / args.rows, 1, slices);
  // Which rows are finished by then depends on settings that only the device knows.
  look();
  start(sample_weigh, args.rows * weigh_parts, 0, true, weigh_parts);
  start(sample_near, args.rows * near_parts, sizeof(NearMemory), true, near_parts);
  start(sample_team, std::min(blocks, rooms.team), sizeof(SearchMemory), true, slices);
  return code;
}

}  // namespace kv8::sample
