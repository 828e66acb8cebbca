#include <algorithm>

#include "cuda/dense/gemv/entry.h"
#include "cuda/dense/gemv/kernel.cuh"

namespace kv8::gemv {
namespace {

/// With a fused norm x lies in shared memory, else it comes through L1. The ring leaves room for
/// the next launch's ring on the same multiprocessor. Second choices are for devices with less
/// shared memory, and for many long rows.
template <bool kBf16, bool kNorm>
using First = Shape<kBf16, 16, 2, 4, kNorm>;
template <bool kBf16, bool kNorm>
using Second = Shape<kBf16, 8, 1, 3, kNorm>;

template <class S>
bool fits(const GemvArgs& args, const Device& device) {
  return shared_bytes<S>(args) <= device.shared_bytes;
}

template <class S>
cudaError_t start_shape(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  const int bytes = shared_bytes<S>(args);
  const cudaError_t code = cudaFuncSetAttribute(
      multiply_rows<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes);
  if (code != cudaSuccess) return code;
  const int outputs = args.swiglu ? S::kUnit / 2 : S::kUnit;
  const int units = (args.out_features + outputs - 1) / outputs;
  const int blocks = std::min(units, device.multiprocessors);
  return dense::start(multiply_rows<S>, static_cast<unsigned>(blocks), S::kThreads, bytes,
                      args.dependent_launch, stream, args);
}

template <bool kBf16, bool kNorm>
cudaError_t start_source(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return fits<First<kBf16, kNorm>>(args, device)
             ? start_shape<First<kBf16, kNorm>>(args, device, stream)
             : start_shape<Second<kBf16, kNorm>>(args, device, stream);
}

template <bool kBf16>
cudaError_t start_type(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return args.norm_weight != nullptr ? start_source<kBf16, true>(args, device, stream)
                                     : start_source<kBf16, false>(args, device, stream);
}

}  // namespace

bool norm_fits(const GemvArgs& args, const Device& device) {
  return fits<Second<false, true>>(args, device);
}

cudaError_t start_gemv(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return args.bf16 ? start_type<true>(args, device, stream)
                   : start_type<false>(args, device, stream);
}

}  // namespace kv8::gemv
