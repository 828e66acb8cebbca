#include <cuda_runtime.h>

#include "cuda/dense/start.cuh"
#include "cuda/kv_write/kernel.cuh"

namespace kv8::kv_write {
namespace {

template <class C>
cudaError_t start(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  const int head_blocks = (args.num_kv_heads + C::kTileHeads - 1) / C::kTileHeads;
  const int blocks = grid.row_blocks + grid.tile_slots * head_blocks;
  return dense::start(rope_quantize_write<C>, dim3(static_cast<unsigned>(blocks)), kThreads, 0,
                      args.dependent_launch, stream, args, grid);
}

template <bool kBf16, bool kFp8Cache, bool kFp8Q, int kDim>
cudaError_t start_dim(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  const bool plain = args.q_norm == nullptr && args.k_norm == nullptr && args.k_offset == nullptr &&
                     args.v_offset == nullptr && !args.hadamard;
  return plain ? start<Shape<kBf16, kFp8Cache, kFp8Q, kDim, true>>(args, grid, stream)
               : start<Shape<kBf16, kFp8Cache, kFp8Q, kDim, false>>(args, grid, stream);
}

template <bool kBf16, bool kFp8Cache, bool kFp8Q>
cudaError_t start_cache(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  return args.head_dim == 64 ? start_dim<kBf16, kFp8Cache, kFp8Q, 64>(args, grid, stream)
                             : start_dim<kBf16, kFp8Cache, kFp8Q, 128>(args, grid, stream);
}

template <bool kBf16>
cudaError_t start_types(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  if (args.fp8_cache) {
    return args.fp8_q ? start_cache<kBf16, true, true>(args, grid, stream)
                      : start_cache<kBf16, true, false>(args, grid, stream);
  }
  return start_cache<kBf16, false, false>(args, grid, stream);
}

}  // namespace

cudaError_t start_kv_write(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  return args.bf16 ? start_types<true>(args, grid, stream) : start_types<false>(args, grid, stream);
}

}  // namespace kv8::kv_write
