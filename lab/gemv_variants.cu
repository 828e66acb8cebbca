#include <algorithm>

#include "cuda/dense/gemv/kernel.cuh"
#include "gemv_variants.h"

namespace kv8::lab {
namespace {

template <int kWarps, int kTiles, int kStages, bool kSharedX, int kBlocksEach = 1>
cudaError_t start(const GemvArgs& args, int multiprocessors, cudaStream_t stream) {
  using S = gemv::Shape<false, kWarps, kTiles, kStages, kSharedX>;
  const int bytes = gemv::shared_bytes<S>(args);
  const cudaError_t code = cudaFuncSetAttribute(gemv::multiply_rows<S>,
                                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (code != cudaSuccess) return code;
  const int outputs = args.swiglu ? S::kUnit / 2 : S::kUnit;
  const int units = (args.out_features + outputs - 1) / outputs;
  const int blocks = std::min(units, kBlocksEach * multiprocessors);
  return dense::start(gemv::multiply_rows<S>, static_cast<unsigned>(blocks), S::kThreads, bytes,
                      args.dependent_launch, stream, args);
}

/// Occupies every multiprocessor as a decode attention kernel does, and leaves memory alone.
__global__ void spin(long long nanoseconds) {
  ptx::start_dependents();
  ptx::wait_for_predecessors();
  long long begin, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

}  // namespace

cudaError_t start_spin(double microseconds, int multiprocessors, cudaStream_t stream) {
  const cudaError_t code =
      cudaFuncSetAttribute(spin, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10);
  if (code != cudaSuccess) return code;
  return dense::start(spin, static_cast<unsigned>(multiprocessors), 32, 200 << 10, false, stream,
                      static_cast<long long>(1000 * microseconds));
}

const std::vector<GemvVariant>& gemv_variants() {
  static const std::vector<GemvVariant> variants = {
      {"w16 t2 s3", start<16, 2, 3, true>, start<16, 2, 3, false>},
      {"w16 t2 s4", start<16, 2, 4, true>, start<16, 2, 4, false>},
      {"w16 t1 s5", start<16, 1, 5, true>, start<16, 1, 5, false>},
      {"w8 t2 s6", start<8, 2, 6, true>, start<8, 2, 6, false>},
  };
  return variants;
}

}  // namespace kv8::lab
