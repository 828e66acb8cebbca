#include "cuda/dense/sample/entry.h"
#include "cuda/dense/sample/few.cuh"
#include "cuda/dense/sample/team.cuh"
#include "cuda/dense/start.cuh"

namespace kv8::sample {

std::size_t workspace_bytes(int rows) {
  return offsetof(Workspace, rows) + sizeof(RowState) * static_cast<std::size_t>(rows);
}

cudaError_t start_sample(const SampleArgs& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(TeamMemory);
  int device = 0, multiprocessors = 0, blocks_each = 0;
  cudaError_t code = cudaGetDevice(&device);
  if (code == cudaSuccess) {
    code = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (code == cudaSuccess) {
    code = cudaFuncSetAttribute(sample_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  }
  if (code == cudaSuccess) {
    code =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_each, sample_rows, kThreads, kBytes);
  }
  if (code != cudaSuccess) return code;
  const int parts = (args.vocab + kSlice - 1) / kSlice, room = multiprocessors * blocks_each;
  if (room < parts) return cudaErrorCooperativeLaunchTooLarge;
  const auto blocks = static_cast<unsigned>(args.rows) * static_cast<unsigned>(parts);
  code = dense::start(sample_few, blocks, kThreads, 0, args.dependent_launch, stream, args, parts);
  if (code != cudaSuccess) return code;
  // Which rows are finished by then depends on settings that only the device knows.
  constexpr bool kDependent = true;
  return dense::start(sample_rows, blocks, kThreads, kBytes, kDependent, stream, args, parts,
                      blocks > static_cast<unsigned>(room));
}

}  // namespace kv8::sample
