#include <cuda_runtime.h>

#include "cuda/kv_write/kernel.cuh"

namespace kv8::kv_write {
namespace {

template <bool kBf16, bool kFp8Cache, bool kFp8Q>
cudaError_t start(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  const int tile_heads = 128 / args.head_dim;
  const int head_blocks = (args.num_kv_heads + tile_heads - 1) / tile_heads;
  const int blocks = grid.row_blocks + grid.tile_slots * head_blocks;
  if (args.head_dim == 64) {
    rope_quantize_write<Shape<kBf16, kFp8Cache, kFp8Q, 64>><<<blocks, kThreads, 0, stream>>>(args, grid);
  } else {
    rope_quantize_write<Shape<kBf16, kFp8Cache, kFp8Q, 128>><<<blocks, kThreads, 0, stream>>>(args, grid);
  }
  return cudaGetLastError();
}

template <bool kBf16>
cudaError_t start_types(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  if (args.fp8_cache) {
    return args.fp8_q ? start<kBf16, true, true>(args, grid, stream)
                      : start<kBf16, true, false>(args, grid, stream);
  }
  return start<kBf16, false, false>(args, grid, stream);
}

}  // namespace

cudaError_t start_kv_write(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  return args.bf16 ? start_types<true>(args, grid, stream) : start_types<false>(args, grid, stream);
}

}  // namespace kv8::kv_write
