// What compute-sanitizer's racecheck follows: one warp writes shared memory and hands it to another
// in the ways the kernels use. Every variant is correct; run each under `--tool racecheck` and see
// which are reported. handover_demo 0..5
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "cuda/ptx/mbarrier.cuh"
#include "cuda/ptx/sync.cuh"

namespace {

using namespace kv8::ptx;

enum Way { kBarrier, kNamedSync, kNamedArrive, kMbarrier, kMbarrierExpect, kNamedRing };

template <int kWay>
__global__ void hand_over(int* out) {
  __shared__ int value[32];
  __shared__ uint64_t barrier;
  const uint32_t address = shared_address(&barrier);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) mbarrier_init(address, 1);
  __syncthreads();
  if (warp == 0) {
    value[lane] = lane;
    __syncwarp();
    if (kWay == kNamedSync) named_barrier_sync(1, 64);
    if (kWay == kNamedArrive) named_barrier_arrive(1, 64);
    if (kWay == kMbarrier && lane == 0) mbarrier_arrive(address);
    if (kWay == kMbarrierExpect && lane == 0) mbarrier_arrive_expect(address, 0);
  }
  if (kWay == kBarrier) __syncthreads();
  if (warp == 1) {
    if (kWay == kNamedSync || kWay == kNamedArrive) named_barrier_sync(1, 64);
    if (kWay == kMbarrier || kWay == kMbarrierExpect) mbarrier_wait(address, 0);
    out[lane] = value[31 - lane];
  }
}

/// The buffer used again and again, as the key groups' merge does: a barrier each for full and
/// empty.
__global__ void hand_over_ring(int* out) {
  __shared__ int value[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 1) named_barrier_arrive(2, 64);
  for (int round = 0; round < 3; ++round) {
    if (warp == 0) {
      named_barrier_sync(2, 64);
      value[lane] = lane;
      named_barrier_arrive(1, 64);
    } else {
      named_barrier_sync(1, 64);
      out[lane] = value[31 - lane];
      named_barrier_arrive(2, 64);
    }
  }
  if (warp == 0) named_barrier_sync(2, 64);
}

}  // namespace

int main(int argc, char** argv) {
  const char* names[] = {"__syncthreads",
                         "bar.sync on both sides",
                         "bar.arrive, bar.sync",
                         "mbarrier.arrive, try_wait.parity",
                         "mbarrier.arrive.expect_tx, try_wait.parity",
                         "bar.arrive, bar.sync, full and empty in turn"};
  const int way = argc > 1 ? std::atoi(argv[1]) : 0;
  int* out = nullptr;
  if (way < 0 || way > 5 || cudaMalloc(&out, 32 * sizeof(int)) != cudaSuccess) return 1;
  if (way == 0) hand_over<kBarrier><<<1, 64>>>(out);
  if (way == 1) hand_over<kNamedSync><<<1, 64>>>(out);
  if (way == 2) hand_over<kNamedArrive><<<1, 64>>>(out);
  if (way == 3) hand_over<kMbarrier><<<1, 64>>>(out);
  if (way == 4) hand_over<kMbarrierExpect><<<1, 64>>>(out);
  if (way == 5) hand_over_ring<<<1, 64>>>(out);
  int got[32] = {};
  if (cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost) != cudaSuccess) return 1;
  std::printf("%s: %s\n", names[way], got[0] == 31 ? "right" : "WRONG");
  return cudaFree(out) == cudaSuccess ? 0 : 1;
}
