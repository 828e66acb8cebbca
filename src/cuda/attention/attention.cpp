#include "cuda/attention/attention.h"

#include <cuda_runtime_api.h>

#include <cstdlib>

#include "cuda/attention/decode/launch.h"
#include "cuda/attention/portable/decode/entry.h"
#include "cuda/attention/prefill/check.h"
#include "cuda/attention/sm90/decode/entry.h"
#include "cuda/attention/sm90/prefill/select.h"

namespace kv8 {
namespace {

Result<int> attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t code = cudaDeviceGetAttribute(&value, which, device);
  if (code != cudaSuccess) return unsupported("attention: {}", cudaGetErrorString(code));
  return value;
}

}  // namespace

std::string_view to_string(KernelFamily family) {
  return family == KernelFamily::kSm90 ? "sm90" : "portable";
}

Result<KernelFamily> select_family(int major, int minor, std::string_view forced) {
  if (major < 8 || (major == 8 && minor < 9)) {
    return unsupported(
        "FP8 KV needs compute capability 8.9 or newer (Ada, Hopper, Blackwell); this is {}.{}",
        major, minor);
  }
  const bool hopper = major == 9 && minor == 0;
  if (forced.empty()) return hopper ? KernelFamily::kSm90 : KernelFamily::kPortable;
  if (forced == "portable") return KernelFamily::kPortable;
  if (forced != "sm90") {
    return usage_error("KV8_FORCE_KERNEL is \"{}\"; there are sm90 and portable", forced);
  }
  if (!hopper) {
    return unsupported(
        "KV8_FORCE_KERNEL is sm90, whose kernels run on compute capability 9.0 (Hopper: H100, "
        "H200, "
        "GH200); this is {}.{}",
        major, minor);
  }
  return KernelFamily::kSm90;
}

Result<KernelFamily> current_family() {
  int device = 0;
  const cudaError_t code = cudaGetDevice(&device);
  if (code != cudaSuccess) return unsupported("attention: {}", cudaGetErrorString(code));
  const int major = KV8_TRY(attribute(cudaDevAttrComputeCapabilityMajor, device));
  const int minor = KV8_TRY(attribute(cudaDevAttrComputeCapabilityMinor, device));
  const char* forced = std::getenv("KV8_FORCE_KERNEL");
  return select_family(major, minor, forced == nullptr ? "" : forced);
}

ScoreType score_type_for(float q_amax, float k_amax, int head_dim, float logit_scale) {
  const double largest = double(head_dim) * q_amax * k_amax;
  const bool proven = q_amax >= 0 && k_amax >= 0 && largest < 65504.0;
  const bool normal = logit_scale >= 6.103515625e-5f && logit_scale < 65504.0f;
  return proven && normal ? ScoreType::kF16 : ScoreType::kF32;
}

Status PreparedPrefill::launch(CUstream_st* stream) const {
  return std::visit([stream](const auto& prepared) { return prepared.launch(stream); }, prepared_);
}

std::string PreparedPrefill::description() const {
  return std::visit([](const auto& prepared) { return prepared.description(); }, prepared_);
}

Result<PreparedPrefill> prepare_prefill(const PrefillArgs& args) {
  KV8_TRY(prefill::check(args));
  const bool mixed = args.q_type != args.kv_type;  // Hopper's products take operands of one width
  if (KV8_TRY(current_family()) == KernelFamily::kPortable || mixed) {
    const auto prepared = KV8_TRY(portable::prepare_prefill(args));
    return PreparedPrefill(prepared);
  }
  const auto prepared = KV8_TRY(sm90::prepare_prefill(args));
  return PreparedPrefill(prepared);
}

Result<std::size_t> decode_workspace_bytes(const DecodeArgs& args) {
  return decode::workspace_bytes(args);
}

Status launch_decode(const DecodeArgs& args, CUstream_st* stream) {
  return launch_decode(args, stream, decode::kMaxDecodeBlocks);
}

Status launch_decode(const DecodeArgs& args, CUstream_st* stream, int blocks) {
  KV8_TRY(decode::check(args));
  const KernelFamily family = KV8_TRY(current_family());
  const auto start =
      family == KernelFamily::kPortable ? portable::start_decode : sm90::start_decode;
  return decode::launch(args, start, stream, blocks);
}

}  // namespace kv8
