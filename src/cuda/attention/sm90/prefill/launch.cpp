#include "cuda/attention/sm90/prefill/launch.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "cuda/attention/prefill/check.h"
#include "cuda/attention/sm90/prefill/kernel_params.cuh"
#include "cuda/attention/sm90/prefill/select.h"
#include "ops/kv_layout.h"

namespace kv8::sm90 {
namespace {

static_assert(sizeof(KernelParams) <= 640);

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("{}: {}", what, cudaGetErrorString(code));
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

/// The driver's encoder, looked up so that kv8 does not link against the driver.
Result<EncodeTiled> encode_tiled() {
  static const EncodeTiled function = [] {
    void* symbol = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &symbol,
                                                              12000, cudaEnableDefault, &found);
    const bool ok = code == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<EncodeTiled>(symbol) : nullptr;
  }();
  if (function == nullptr) {
    return unsupported("the CUDA driver has no cuTensorMapEncodeTiled: it must be 12.0 or newer");
  }
  return function;
}

/// Dimensions from the innermost outwards; strides of all but the innermost follow from them.
struct MapShape {
  int rank;
  cuuint64_t dims[3];
  cuuint32_t box[3];
};

Status encode_map(CUtensorMap* map, const void* base, int elem_bytes, const MapShape& shape,
                  const char* name) {
  const EncodeTiled encode = KV8_TRY(encode_tiled());
  cuuint64_t strides[2];
  cuuint64_t bytes = elem_bytes;
  for (int i = 0; i + 1 < shape.rank; ++i) strides[i] = bytes *= shape.dims[i];
  const cuuint32_t element_strides[3] = {1, 1, 1};
  const bool wide = shape.box[0] * elem_bytes == 128;
  const CUresult code = encode(
      map, elem_bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      shape.rank, const_cast<void*>(base), shape.dims, strides, shape.box, element_strides,
      CU_TENSOR_MAP_INTERLEAVE_NONE, wide ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (code != CUDA_SUCCESS) {
    return unsupported(
        "{}: the driver refused its tensor map (error {}); pointers must be aligned "
        "to 16 bytes",
        name, static_cast<int>(code));
  }
  return {};
}

}  // namespace

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& a) {
  KV8_TRY(prefill::check(a));
  int device = 0, sms = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "prefill attention"));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device),
                  "prefill attention"));
  const SelectInput input = {a.kv_type,      a.score_type, a.head_dim,   a.batch, a.num_heads,
                             a.num_kv_heads, a.max_q_len,  a.max_kv_len, sms};
  const SelectableKernel* kernel = KV8_TRY(select_kernel(input));
  return prepare_prefill(a, kernel->entry(), packed_heads(kernel->shape, input));
}

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& a, const KernelEntry& entry,
                                        int packed_heads) {
  KV8_TRY(prefill::check(a));
  const KernelShape& shape = entry.shape;
  KV8_CHECK(shape.kv_type == a.kv_type && a.q_type == a.kv_type && shape.head_dim == a.head_dim,
            "kernel {} does not serve head_dim {}", to_string(shape), a.head_dim);
  const int heads_per_kv = a.num_heads / a.num_kv_heads;
  KV8_CHECK(
      packed_heads > 0 && heads_per_kv % packed_heads == 0 && packed_heads <= 64 * shape.row_groups,
      "{} query heads in a tile of {} a KV head", packed_heads, heads_per_kv);
  const int elem_bytes = a.kv_type == KvType::kE4m3 ? 1 : 2;
  const cuuint64_t head_dim = a.head_dim;
  const cuuint64_t blocks = cuuint64_t(a.num_pages) * a.num_kv_heads;
  const cuuint32_t chunk = std::min(a.head_dim, 128 / elem_bytes);
  const int tile_tokens = 64 * shape.row_groups / packed_heads;

  KernelParams p{prefill::common_params(a)};
  KV8_TRY(
      encode_map(&p.q_map, a.q, elem_bytes,
                 {3,
                  {head_dim, cuuint64_t(a.num_heads), cuuint64_t(std::max(a.total_q_tokens, 1))},
                  {chunk, cuuint32_t(packed_heads), cuuint32_t(tile_tokens)}},
                 "q"));
  KV8_TRY(encode_map(&p.k_map, a.k_pool, elem_bytes,
                     {2, {head_dim, blocks * kPageTokens}, {chunk, kPageTokens}}, "k_pool"));
  KV8_TRY(encode_map(&p.v_map, a.v_pool, elem_bytes,
                     {2, {kPageTokens, blocks * head_dim}, {kPageTokens, cuuint32_t(a.head_dim)}},
                     "v_pool"));
  p.scheduler = a.scheduler;
  p.packed_heads = FastDivisor::of(packed_heads);
  p.head_groups = FastDivisor::of(a.num_heads / packed_heads);
  p.groups_per_kv = FastDivisor::of(heads_per_kv / packed_heads);
  p.tile_tokens = tile_tokens;
  p.q_bytes = tile_tokens * packed_heads * a.head_dim * elem_bytes;
  const std::int64_t ranks = (a.max_q_len + tile_tokens - 1) / tile_tokens;
  const std::int64_t tiles_per_rank = std::int64_t{a.batch} * (a.num_heads / packed_heads);
  const std::int64_t tiles = ranks * tiles_per_rank;
  if (tiles > INT32_MAX / 2) {
    return capacity_error("prefill attention: {} query tiles are too many for one launch", tiles);
  }
  p.total_tiles = static_cast<int>(tiles);
  p.tiles_per_rank = FastDivisor::of(static_cast<std::uint32_t>(tiles_per_rank));

  int device = 0, sms = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "prefill attention"));
  KV8_TRY(cuda_ok(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device),
                  "prefill attention"));
  KV8_TRY(cuda_ok(cudaFuncSetAttribute(entry.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       entry.smem_bytes),
                  "prefill attention: shared memory"));
  PreparedPrefill prepared;
  prepared.entry_ = entry;
  prepared.grid_ = std::min(sms * shape.blocks_per_sm, p.total_tiles);
  std::memcpy(prepared.params_.data(), &p, sizeof p);
  return prepared;
}

std::string PreparedPrefill::description() const { return to_string(entry_.shape); }

Status PreparedPrefill::launch(CUstream_st* stream) const {
  if (grid_ == 0) return {};  // no query rows
  void* arguments[] = {const_cast<std::byte*>(params_.data())};
  return cuda_ok(cudaLaunchKernel(entry_.function, dim3(grid_), dim3(entry_.threads), arguments,
                                  entry_.smem_bytes, stream),
                 "prefill attention");
}

}  // namespace kv8::sm90
