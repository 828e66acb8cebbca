// The bulk conversions without Highway, for builds of the CUDA kernels alone.
#include "formats/float_formats.h"
#include "formats/simd_codec.h"

namespace kv8 {

void f16_to_float(const std::uint16_t* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = f16_to_float(in[i]);
}
void bf16_to_float(const std::uint16_t* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = bf16_to_float(in[i]);
}
void e4m3_to_float(const std::uint8_t* in, float* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = e4m3_to_float(in[i]);
}
void f16_from_float(const float* in, std::uint16_t* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = f16_from_float(in[i]);
}
void bf16_from_float(const float* in, std::uint16_t* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = bf16_from_float(in[i]);
}
void e4m3_from_float(const float* in, float scale, std::uint8_t* out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = e4m3_from_float(in[i] / scale);
}

}  // namespace kv8
