// The shipped kernels, one function each; select.cpp says when each is used.
#pragma once

#include "cuda/attention/sm90/prefill/kernel_shape.h"

namespace kv8::sm90 {

KernelEntry fp8_d128_rows192_keys192();
KernelEntry fp8_d128_rows192_keys128();
KernelEntry fp8_d128_rows128();
KernelEntry fp8_d128_rows64();
KernelEntry fp8_d128_split2();
KernelEntry fp8_d128_f32_scores();
KernelEntry fp8_d64_rows256();
KernelEntry fp8_d64_rows192();
KernelEntry fp8_d64_rows64();
KernelEntry fp8_d64_split3();
KernelEntry fp8_d64_f32_scores();
KernelEntry f16_d128_rows192();
KernelEntry f16_d128_rows128();
KernelEntry f16_d128_rows64();
KernelEntry f16_d64_rows192();
KernelEntry f16_d64_rows64();

}  // namespace kv8::sm90
