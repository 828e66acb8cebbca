#include <algorithm>

#include "cuda/dense/gemv/kernel.cuh"
#include "gemv_variants.h"

namespace kv8::lab {
namespace {

template <int kWarps, int kTiles, int kStages, bool kSharedX>
cudaError_t start(const GemvArgs& args, int blocks, cudaStream_t stream) {
  using S = gemv::Shape<false, kWarps, kTiles, kStages, kSharedX>;
  const int bytes = gemv::shared_bytes<S>(args);
  const cudaError_t code = cudaFuncSetAttribute(gemv::multiply_rows<S>,
                                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (code != cudaSuccess) return code;
  const int outputs = args.swiglu ? S::kUnit / 2 : S::kUnit;
  const int units = (args.out_features + outputs - 1) / outputs;
  return dense::start(gemv::multiply_rows<S>, static_cast<unsigned>(std::min(units, blocks)),
                      S::kThreads, bytes, args.dependent_launch, stream, args);
}

}  // namespace

const std::vector<GemvVariant>& gemv_variants() {
  static const std::vector<GemvVariant> variants = {
      {"w16 t1 s6", 1, start<16, 1, 6, true>, true},
      {"w16 t2 s3", 1, start<16, 2, 3, true>, true},
      {"w16 t2 s4", 1, start<16, 2, 4, true>, true},
      {"w8 t1 s8 x2", 2, start<8, 1, 8, true>, true},
      {"w8 t2 s4 x2", 2, start<8, 2, 4, true>, true},
      {"w8 t2 s6", 1, start<8, 2, 6, true>, true},
      {"w16 t2 s4 global", 1, start<16, 2, 4, false>, false},
      {"w16 t2 s5 global", 1, start<16, 2, 5, false>, false},
      {"w16 t4 s2 global", 1, start<16, 4, 2, false>, false},
      {"w16 t4 s3 global", 1, start<16, 4, 3, false>, false},
  };
  return variants;
}

}  // namespace kv8::lab
