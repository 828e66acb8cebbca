#include <algorithm>

#include "cuda/dense/gemv/entry.h"
#include "cuda/dense/gemv/kernel.cuh"

namespace kv8::gemv {
namespace {

/// With a fused norm x lies in shared memory, else it comes through L1 and is read once for several
/// tiles. Second choices are for devices with less shared memory.
template <bool kBf16>
using Norm = Shape<kBf16, 16, 2, 3, true>;
template <bool kBf16>
using SmallNorm = Shape<kBf16, 8, 1, 3, true>;
template <bool kBf16>
using Plain = Shape<kBf16, 16, 4, 3, false>;
template <bool kBf16>
using SmallPlain = Shape<kBf16, 8, 2, 4, false>;

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

template <class First, class Second>
cudaError_t start_first_that_fits(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return fits<First>(args, device) ? start_shape<First>(args, device, stream)
                                   : start_shape<Second>(args, device, stream);
}

template <bool kBf16>
cudaError_t start_type(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return args.norm_weight != nullptr
             ? start_first_that_fits<Norm<kBf16>, SmallNorm<kBf16>>(args, device, stream)
             : start_first_that_fits<Plain<kBf16>, SmallPlain<kBf16>>(args, device, stream);
}

}  // namespace

bool norm_fits(const GemvArgs& args, const Device& device) {
  return fits<SmallNorm<false>>(args, device);
}

cudaError_t start_gemv(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return args.bf16 ? start_type<true>(args, device, stream)
                   : start_type<false>(args, device, stream);
}

}  // namespace kv8::gemv
