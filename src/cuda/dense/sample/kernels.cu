#include "cuda/dense/sample/entry.h"
#include "cuda/dense/sample/kernel.cuh"
#include "cuda/dense/start.cuh"

namespace kv8::sample {

std::size_t workspace_bytes(int rows) {
  return offsetof(Workspace, rows) + sizeof(RowState) * static_cast<std::size_t>(rows);
}

cudaError_t start_sample(const SampleArgs& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Memory);
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
  const int64_t blocks = int64_t{args.rows} * parts;
  return dense::start(sample_rows, static_cast<unsigned>(blocks), kThreads, kBytes,
                      args.dependent_launch, stream, args, parts, blocks > room);
}

}  // namespace kv8::sample
