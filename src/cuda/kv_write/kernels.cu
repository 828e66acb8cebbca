#include <cuda_runtime.h>

#include "cuda/dense/start.cuh"
#include "cuda/kv_write/few.cuh"
#include "cuda/kv_write/tiles.cuh"

namespace kv8::kv_write {
namespace {

template <class C>
cudaError_t start_few(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  const int warps = few_warps<C>(args.num_heads, args.num_kv_heads);
  // Few of them are spread over the multiprocessors; many start faster in larger blocks.
  const int block_warps = std::int64_t{warps} * args.rows > 8 * grid.multiprocessors ? 4 : 1;
  const dim3 blocks(static_cast<unsigned>(args.batch),
                    static_cast<unsigned>((warps + block_warps - 1) / block_warps),
                    static_cast<unsigned>(grid.uniform_rows));
  return dense::start(rope_quantize_write_few<C>, blocks, 32 * block_warps, 0,
                      args.dependent_launch, stream, args);
}

template <class C>
cudaError_t start_many(const KvWriteArgs& args, Grid grid, cudaStream_t stream) {
  constexpr int kDims = TileShape<C>::kDims;
  grid.tiles_per_page = (args.num_kv_heads * C::kHeadDim + kDims - 1) / kDims;
  const int blocks = grid.row_blocks + grid.tile_slots * grid.tiles_per_page;
  return dense::start(rope_quantize_write_many<C>, dim3(static_cast<unsigned>(blocks)), kThreads, 0,
                      args.dependent_launch, stream, args, grid);
}

template <class M>
cudaError_t start_model(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  if (grid.tile_slots == 0) return start_few<Untyped<M>>(args, grid, stream);
  if (!args.fp8_cache) return start_many<Typed<M, false, false>>(args, grid, stream);
  if (!args.fp8_q) return start_many<Typed<M, true, false>>(args, grid, stream);
  return start_many<Typed<M, true, true>>(args, grid, stream);
}

template <bool kBf16, int kDim>
cudaError_t start_dim(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  const bool plain = args.q_norm == nullptr && args.k_norm == nullptr && args.k_offset == nullptr &&
                     args.v_offset == nullptr && !args.hadamard;
  return plain ? start_model<Model<kBf16, kDim, true>>(args, grid, stream)
               : start_model<Model<kBf16, kDim, false>>(args, grid, stream);
}

template <bool kBf16>
cudaError_t start_type(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  return args.head_dim == 64 ? start_dim<kBf16, 64>(args, grid, stream)
                             : start_dim<kBf16, 128>(args, grid, stream);
}

}  // namespace

cudaError_t start_kv_write(const KvWriteArgs& args, const Grid& grid, cudaStream_t stream) {
  return args.bf16 ? start_type<true>(args, grid, stream) : start_type<false>(args, grid, stream);
}

}  // namespace kv8::kv_write
