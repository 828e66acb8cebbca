#include "cuda/attention/decode/launch.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kv8::decode {
namespace {

Status cuda_ok(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("decode attention, {}: {}", what, cudaGetErrorString(code));
}

Status check_pointers(const DecodeArgs& a) {
  if (a.q == nullptr || a.k_pool == nullptr || a.v_pool == nullptr || a.out == nullptr ||
      a.page_table == nullptr || a.kv_lens == nullptr) {
    return usage_error("decode attention: q, pools, out, page_table and kv_lens must be given");
  }
  const bool fp8_kv = a.kv_type == KvType::kE4m3;
  if ((a.k_scale != nullptr) != fp8_kv || (a.v_scale != nullptr) != fp8_kv ||
      (a.q_scale != nullptr) != (a.q_type == KvType::kE4m3)) {
    return usage_error(
        "decode attention: scales go with FP8: K's and V's with an FP8 cache, Q's "
        "with FP8 queries");
  }
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.q) || !aligned(a.k_pool) || !aligned(a.v_pool) || !aligned(a.out) ||
      !aligned(a.tree_mask)) {
    return usage_error("decode attention: pointers must be aligned to 16 bytes");
  }
  return {};
}

/// Limits keep the products of the schedule within 32 bits.
Status check_sizes(const DecodeArgs& a) {
  if (a.batch < 1 || a.q_len < 1 || a.num_heads < 1 || a.num_kv_heads < 1 || a.max_pages < 1) {
    return usage_error(
        "decode attention: batch {}, q_len {}, heads {}, KV heads {} and page table "
        "width {} must be positive",
        a.batch, a.q_len, a.num_heads, a.num_kv_heads, a.max_pages);
  }
  if (a.num_heads % a.num_kv_heads != 0) {
    return usage_error("decode attention: {} query heads do not divide into {} KV heads",
                       a.num_heads, a.num_kv_heads);
  }
  if (a.head_dim != 64 && a.head_dim != 128) {
    return unsupported("decode attention: head_dim {}; 64 and 128 are supported", a.head_dim);
  }
  if (a.tree_mask != nullptr && a.q_len > kMaxTreeTokens) {
    return unsupported("decode attention: a tree of {} tokens; {} at most", a.q_len,
                       kMaxTreeTokens);
  }
  const int group = a.num_heads / a.num_kv_heads;
  const double tasks = 1.0 * a.batch * a.num_kv_heads *
                       std::ceil(static_cast<double>(a.q_len) * group / kMaxDecodeRows);
  if (tasks * a.max_pages * 257 >= 4294967296.0 || 1.0 * a.q_len * group > 1 << 20) {
    return capacity_error(
        "decode attention: batch {} x {} pages x {} KV heads is too much for one "
        "launch",
        a.batch, a.max_pages, a.num_kv_heads);
  }
  if (!(a.softmax_scale > 0.0f) || !std::isfinite(a.softmax_scale)) {
    return usage_error("decode attention: softmax_scale {} must be positive", a.softmax_scale);
  }
  return {};
}

Result<int> default_blocks() {
  int device = 0, count = 0;
  KV8_TRY(cuda_ok(cudaGetDevice(&device), "device"));
  KV8_TRY(
      cuda_ok(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device"));
  return std::min(count, kMaxDecodeBlocks);
}

/// Parts, then counters, that of requested pages and one a task. Where the counters lie hangs on
/// the device alone: a launch leaves them zero, but not its parts, and the next may have more
/// tasks.
struct Workspace {
  std::size_t part_bytes, total_bytes;
  int row_tiles;
};
Workspace workspace_of(const DecodeArgs& a, int default_blocks) {
  constexpr int kMaxHeadDim = 128;
  const int rows = a.q_len * (a.num_heads / a.num_kv_heads);
  Workspace w{};
  w.row_tiles = (rows + kMaxDecodeRows - 1) / kMaxDecodeRows;
  const std::size_t tasks = std::size_t(a.batch) * a.num_kv_heads * w.row_tiles;
  w.part_bytes = std::size_t(2) * default_blocks * kMaxDecodeRows * (kMaxHeadDim + 2) * 4;
  w.total_bytes = w.part_bytes + (1 + tasks) * 4;
  return w;
}

}  // namespace

Result<std::size_t> workspace_bytes(const DecodeArgs& args) {
  KV8_TRY(check_sizes(args));
  return workspace_of(args, KV8_TRY(default_blocks())).total_bytes;
}

Status check(const DecodeArgs& args) {
  KV8_TRY(check_pointers(args));
  KV8_TRY(check_sizes(args));
  if (args.workspace == nullptr) return usage_error("decode attention: no workspace given");
  return {};
}

Status launch(const DecodeArgs& a, StartDecode start, cudaStream_t stream, int blocks) {
  const int most_blocks = KV8_TRY(default_blocks());
  blocks = std::clamp(blocks, 1, most_blocks);
  const Workspace workspace = workspace_of(a, most_blocks);
  DecodeKernelParams p{};
  p.q = a.q;
  p.k = static_cast<const uint8_t*>(a.k_pool);
  p.v = static_cast<const uint8_t*>(a.v_pool);
  p.out = static_cast<uint16_t*>(a.out);
  p.page_table = a.page_table;
  p.kv_lens = a.kv_lens;
  p.q_scale = a.q_scale;
  p.k_scale = a.k_scale;
  p.v_scale = a.v_scale;
  p.v_offset = a.v_offset;
  p.tree_mask = reinterpret_cast<const uint4*>(a.tree_mask);
  p.partial = static_cast<float*>(a.workspace);
  p.progress =
      reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(a.workspace) + workspace.part_bytes);
  p.counters = p.progress + 1;
  p.scale_stride = a.scale_per_head ? 1 : 0;
  p.batch = a.batch;
  p.q_len = a.q_len;
  p.num_heads = a.num_heads;
  p.num_kv_heads = a.num_kv_heads;
  p.group = a.num_heads / a.num_kv_heads;
  p.row_tiles = workspace.row_tiles;
  p.max_pages = a.max_pages;
  p.score_scale = a.softmax_scale * std::numbers::log2e_v<float>;
  p.q_is_fp8 = a.q_type == KvType::kE4m3;
  p.dependent_launch = a.dependent_launch;
  p.out_is_bf16 = a.out_type == OutType::kBf16;
  const int rows = p.q_len * p.group <= 8 ? 8 : 16;
  return cuda_ok(start(p, a.kv_type == KvType::kE4m3 ? 1 : 2, a.head_dim, rows, blocks, stream),
                 "launch");
}

}  // namespace kv8::decode
