// What the kernels that go over rows and pages once take, as plain structs without CUDA types.
// All pointers are device pointers. "Model's type" is BF16 where `bf16` is set, else FP16. With
// `dependent_launch` a kernel may start while the one before still runs.
#pragma once

#include <cstdint>

namespace kv8 {

/// out[r, c] = x[r, c] / sqrt(mean_c(x[r, c]^2) + eps) * weight[c]
struct RmsNormArgs {
  const float* x = nullptr;      ///< [rows][cols]: the residual stream
  const void* weight = nullptr;  ///< [cols], model's type or FP32
  void* out = nullptr;           ///< [rows][cols], model's type
  int rows = 0, cols = 0;
  float eps = 1e-6f;
  bool bf16 = false;
  bool weight_f32 = false;
  bool dependent_launch = false;
};

/// out[r, c] = silu(gate_up[r, c]) * gate_up[r, cols + c], in FP32, rounded once.
struct SwiGluArgs {
  const void* gate_up = nullptr;  ///< [rows][2 * cols], model's type: gate, then up
  void* out = nullptr;            ///< [rows][cols], model's type
  int rows = 0, cols = 0;
  bool bf16 = false;
  bool dependent_launch = false;
};

/// out[r] = table[ids[r]] as FP32. An id outside the vocabulary reads nothing and gives a row of
/// NaN, which sampling reports.
struct EmbedArgs {
  const std::int32_t* ids = nullptr;  ///< [rows]
  const void* table = nullptr;        ///< [vocab][cols], model's type
  float* out = nullptr;               ///< [rows][cols]
  int rows = 0, cols = 0, vocab = 0;
  bool bf16 = false;
  bool dependent_launch = false;
};

/// out[i] = x[ids[i]], rows of `row_bytes` bytes (a multiple of 2). An id outside [0, x_rows) reads
/// nothing and gives a row of 0xFF bytes: NaN in every floating-point type.
struct SelectRowsArgs {
  const void* x = nullptr;            ///< [x_rows][row_bytes]
  const std::int32_t* ids = nullptr;  ///< [rows]
  void* out = nullptr;                ///< [rows][row_bytes]; does not overlap x
  int x_rows = 0, rows = 0;
  std::int64_t row_bytes = 0;
  bool dependent_launch = false;
};

/// One allocation of pages: K or V of one layer.
struct PagePool {
  void* data = nullptr;         ///< aligned to 16 bytes
  std::int64_t page_bytes = 0;  ///< a multiple of 16
};

struct PagePair {
  std::int32_t from = 0, to = 0;
};

/// Copies page `from` to page `to` in every pool, for every pair. A page that is written appears in
/// no other pair. A pair with a page outside [0, num_pages) is left out.
struct CopyPagesArgs {
  const PagePool* pools = nullptr;  ///< [num_pools], in device memory
  const PagePair* pairs = nullptr;  ///< [num_pairs], in device memory
  int num_pools = 0, num_pairs = 0;
  std::int32_t num_pages = 0;  ///< of every pool
  bool dependent_launch = false;
};

/// data[i] = word
struct FillArgs {
  void* data = nullptr;  ///< aligned to 4 bytes
  std::int64_t words = 0;
  std::uint32_t word = 0;
  bool dependent_launch = false;
};

}  // namespace kv8
