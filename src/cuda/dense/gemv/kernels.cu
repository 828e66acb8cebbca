#include <algorithm>

#include "cuda/dense/gemv/entry.h"
#include "cuda/dense/gemv/kernel.cuh"

namespace kv8::gemv {
namespace {

/// x in shared memory beside a deep or a shallow ring; else x through L1, read once for two tiles.
template <bool kBf16>
using Deep = Shape<kBf16, 8, 1, 8, true>;
template <bool kBf16>
using Shallow = Shape<kBf16, 8, 1, 3, true>;
template <bool kBf16>
using Wide = Shape<kBf16, 8, 2, 4, false>;

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

template <bool kBf16>
cudaError_t start_type(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  if (fits<Deep<kBf16>>(args, device)) {
    return start_shape<Deep<kBf16>>(args, device, stream);
  }
  if (fits<Shallow<kBf16>>(args, device)) {
    return start_shape<Shallow<kBf16>>(args, device, stream);
  }
  return start_shape<Wide<kBf16>>(args, device, stream);
}

}  // namespace

bool x_fits_shared(const GemvArgs& args, const Device& device) {
  return fits<Shallow<false>>(args, device);
}

cudaError_t start_gemv(const GemvArgs& args, const Device& device, cudaStream_t stream) {
  return args.bf16 ? start_type<true>(args, device, stream)
                   : start_type<false>(args, device, stream);
}

}  // namespace kv8::gemv
