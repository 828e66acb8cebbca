#include "cuda/dense/rows/launch.h"

#include <cuda_runtime_api.h>

#include <initializer_list>

#include "cuda/dense/rows/entry.h"

namespace kv8 {
namespace {

constexpr int kMaxColumns = 1 << 24;
constexpr int kMaxGrid = 65535;  ///< blocks along y and z

Status status_of(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return unsupported("{}: {}", what, cudaGetErrorString(code));
}

Status check(const char* what, std::initializer_list<const void*> pointers, int rows, int cols) {
  for (const void* p : pointers) {
    if (p == nullptr) return usage_error("{}: a pointer is null", what);
    if (reinterpret_cast<std::uintptr_t>(p) % 4 != 0) {
      return usage_error("{}: pointers must be aligned to 4 bytes", what);
    }
  }
  if (rows < 1 || cols < 1 || cols > kMaxColumns) {
    return usage_error("{}: {} rows of {}; at least 1 row of 1 to {}", what, rows, cols,
                       kMaxColumns);
  }
  return {};
}

}  // namespace

Status launch_rms_norm(const RmsNormArgs& args, CUstream_st* stream) {
  KV8_TRY(check("RMS norm", {args.x, args.weight, args.out}, args.rows, args.cols));
  return status_of(rows::start_rms_norm(args, stream), "RMS norm");
}

Status launch_swiglu(const SwiGluArgs& args, CUstream_st* stream) {
  KV8_TRY(check("SwiGLU", {args.gate_up, args.out}, args.rows, args.cols));
  return status_of(rows::start_swiglu(args, stream), "SwiGLU");
}

Status launch_embed(const EmbedArgs& args, CUstream_st* stream) {
  KV8_TRY(check("embedding", {args.ids, args.table, args.out}, args.rows, args.cols));
  if (args.vocab < 1) return usage_error("embedding: a vocabulary of {} tokens", args.vocab);
  return status_of(rows::start_embed(args, stream), "embedding");
}

Status launch_select_rows(const SelectRowsArgs& args, CUstream_st* stream) {
  KV8_TRY(check("selection of rows", {args.x, args.ids, args.out}, args.rows, 1));
  if (args.x_rows < 1 || args.row_bytes < 2 || args.row_bytes % 2 != 0) {
    return usage_error("selection of rows: {} rows of {} bytes", args.x_rows, args.row_bytes);
  }
  return status_of(rows::start_select_rows(args, stream), "selection of rows");
}

Status launch_copy_pages(const CopyPagesArgs& args, CUstream_st* stream) {
  KV8_TRY(check("page copy", {args.pools, args.pairs}, 1, 1));
  if (args.num_pools < 1 || args.num_pairs < 1 || args.num_pages < 1) {
    return usage_error("page copy: {} pools of {} pages and {} pairs", args.num_pools,
                       args.num_pages, args.num_pairs);
  }
  if (args.num_pools > kMaxGrid || args.num_pairs > kMaxGrid) {
    return capacity_error("page copy: {} pools and {} pairs; up to {} of each in one launch",
                          args.num_pools, args.num_pairs, kMaxGrid);
  }
  return status_of(rows::start_copy_pages(args, stream), "page copy");
}

Status launch_fill(const FillArgs& args, CUstream_st* stream) {
  KV8_TRY(check("fill", {args.data}, 1, 1));
  if (args.words < 1) return usage_error("fill: {} words", args.words);
  return status_of(rows::start_fill(args, stream), "fill");
}

}  // namespace kv8
