#include <algorithm>

#include "cuda/dense/gemv/kernel.cuh"
#include "gemv_variants.h"

namespace kv8::lab {
namespace {

template <int kWarps, int kTiles, int kStages, bool kNorm, int kBlocksEach = 1>
cudaError_t start(const GemvArgs& args, int multiprocessors, cudaStream_t stream) {
  using S = gemv::Shape<false, kWarps, kTiles, kStages, kNorm>;
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

}  // namespace

const std::vector<GemvVariant>& gemv_variants() {
  static const std::vector<GemvVariant> variants = {
      {"w16 t2 s3", start<16, 2, 3, true>, start<16, 2, 3, false>},
      {"w16 t2 s4", start<16, 2, 4, true>, start<16, 2, 4, false>},
      {"w16 t2 s5", start<16, 2, 5, true>, start<16, 2, 5, false>},
      {"w16 t1 s5", start<16, 1, 5, true>, start<16, 1, 5, false>},
      {"w16 t4 s3", start<16, 4, 2, true>, start<16, 4, 3, false>},
      {"w8 t1 s6 x2", start<8, 1, 6, true, 2>, start<8, 1, 6, false, 2>},
      {"w8 t2 s6", start<8, 2, 6, true>, start<8, 2, 6, false>},
  };
  return variants;
}

}  // namespace kv8::lab
