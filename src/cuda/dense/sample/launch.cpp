#include "cuda/dense/sample/launch.h"

#include <cuda_runtime_api.h>

#include "cuda/dense/sample/entry.h"

namespace kv8 {

std::size_t sample_workspace_bytes(int rows) { return sample::workspace_bytes(rows); }

Status launch_sample(const SampleArgs& args, CUstream_st* stream) {
  if (args.logits == nullptr || args.settings == nullptr || args.tokens == nullptr ||
      args.workspace == nullptr) {
    return usage_error("sampling: logits, settings, tokens and workspace must be given");
  }
  if (reinterpret_cast<std::uintptr_t>(args.workspace) % 16 != 0) {
    return usage_error("sampling: the workspace must be aligned to 16 bytes");
  }
  constexpr int kMaxVocab = sample::kSlice * sample::kMaxParts, kMaxRows = 1 << 20;
  if (args.rows < 1 || args.rows > kMaxRows || args.vocab < 1 || args.vocab > kMaxVocab) {
    return unsupported("sampling: {} rows of {} logits; 1 to {} rows of up to {} are supported",
                       args.rows, args.vocab, kMaxRows, kMaxVocab);
  }
  const cudaError_t code = sample::start_sample(args, stream);
  if (code != cudaSuccess) return unsupported("sampling: {}", cudaGetErrorString(code));
  return {};
}

}  // namespace kv8
