// The CPU's implementation of every op of ops/params.h: Highway kernels chosen at run time, split
// over a thread pool. Tested one by one against ops/reference.h.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "ops/params.h"
#include "tensor/tensor.h"

namespace kv8::cpu {

/// Threads and the memory that each needs while it works; grows to what the largest op asked for.
class Workspace {
 public:
  explicit Workspace(int num_threads);
  ThreadPool& pool() { return pool_; }
  int num_threads() const { return pool_.num_threads(); }
  /// At least `count` floats for `worker` alone, uninitialised, 64-byte aligned.
  float* floats(int worker, std::size_t count);
  /// At least `count` floats that all workers share.
  float* shared_floats(std::size_t count);

 private:
  ThreadPool pool_;
  std::vector<Buffer> buffers_;  // one per worker, then the shared one
};

void rms_norm(Workspace& workspace, const RmsNormParams& params);

/// Up to this many rows a linear layer runs as a product of its own that reads each weight once;
/// above it, as the library's sgemm over weights converted to FP32 tile by tile.
inline constexpr std::int64_t kMaxDirectRows = 16;
void linear(Workspace& workspace, const LinearParams& params);

void swiglu(Workspace& workspace, const SwiGluParams& params);

/// Cosines and sines of a batch's positions: made once, used by every layer.
/// Row r, pair i: cos[r * half + i]; both multiplied by the attention factor.
struct RopeAngles {
  const float* cos = nullptr;
  const float* sin = nullptr;
};
void rope_angles(Workspace& workspace, const RopeKvWriteParams& params, float* cos, float* sin);

/// Where rope_kv_write leaves its values before they are rounded, if wanted (Backend's taps).
struct QkvTap {
  float* q = nullptr;
  float* k = nullptr;
  float* v = nullptr;
};
void rope_kv_write(Workspace& workspace, const RopeKvWriteParams& params, const RopeAngles& angles,
                   const QkvTap* tap);

void attention(Workspace& workspace, const AttentionParams& params);

}  // namespace kv8::cpu
