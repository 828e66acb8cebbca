#include "cuda/dense/start.cuh"
#include "cuda/engine/tap_kernel.h"

namespace kv8::cuda_engine {
namespace {

constexpr int kWarps = 4;

/// A warp a (row, head): heads of Q, then of K, then of V.
template <bool kBf16>
__global__ void qkv_tap(QkvTapArgs a) {
  const int heads = a.num_heads + 2 * a.num_kv_heads;
  const std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (task >= std::int64_t{a.rows} * heads) return;
  const int row = static_cast<int>(task / heads), head = static_cast<int>(task % heads);
  const int lane = threadIdx.x % 32, half = a.head_dim / 2;
  const auto* x = static_cast<const std::uint16_t*>(a.qkv) + task * a.head_dim;
  const bool is_q = head < a.num_heads, is_v = head >= a.num_heads + a.num_kv_heads;
  const int local = is_q ? head : (head - a.num_heads) % a.num_kv_heads;
  const std::int64_t q_values = std::int64_t{a.rows} * a.num_heads * a.head_dim;
  const std::int64_t kv_values = std::int64_t{a.rows} * a.num_kv_heads * a.head_dim;
  float* out = is_q ? a.out + (std::int64_t{row} * a.num_heads + local) * a.head_dim
                    : a.out + q_values + (is_v ? kv_values : 0) +
                          (std::int64_t{row} * a.num_kv_heads + local) * a.head_dim;
  if (is_v) {
    for (int i = lane; i < a.head_dim; i += 32) out[i] = dense::widen<kBf16>(x[i]);
    return;
  }
  const auto* weight = static_cast<const std::uint16_t*>(is_q ? a.q_norm : a.k_norm);
  float r = 1.0f;
  if (weight != nullptr) {
    double sum = 0.0;
    for (int i = lane; i < a.head_dim; i += 32) {
      const double value = dense::widen<kBf16>(x[i]);
      sum += value * value;
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    }
    r = static_cast<float>(1.0 / sqrt(sum / a.head_dim + static_cast<double>(a.norm_eps)));
  }
  const auto normed = [&](int i) {
    const float value = dense::widen<kBf16>(x[i]);
    if (weight == nullptr) return value;
    return __fmul_rn(__fmul_rn(value, r), dense::widen<kBf16>(weight[i]));
  };
  const std::int64_t angles = std::int64_t{a.positions[row]} * half;
  for (int i = lane; i < half; i += 32) {
    const float c = a.cos[angles + i], s = a.sin[angles + i];
    const float first = normed(i), second = normed(i + half);
    out[i] = __fsub_rn(__fmul_rn(first, c), __fmul_rn(second, s));
    out[i + half] = __fadd_rn(__fmul_rn(second, c), __fmul_rn(first, s));
  }
}

}  // namespace

cudaError_t launch_qkv_tap(const QkvTapArgs& args, cudaStream_t stream) {
  const std::int64_t tasks = std::int64_t{args.rows} * (args.num_heads + 2 * args.num_kv_heads);
  const dim3 grid(static_cast<unsigned>((tasks + kWarps - 1) / kWarps));
  return dense::start(args.bf16 ? qkv_tap<true> : qkv_tap<false>, grid, 32 * kWarps, 0, false,
                      stream, args);
}

}  // namespace kv8::cuda_engine
