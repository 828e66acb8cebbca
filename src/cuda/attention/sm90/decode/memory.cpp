#include "cuda/attention/sm90/decode/memory.h"

#include <cuda_runtime_api.h>

namespace kv8::sm90 {

double peak_memory_bytes_per_second() {
  static const double rate = [] {
    int device = 0, kilohertz = 0, bits = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, device) != cudaSuccess) {
      return 0.0;
    }
    return 2e3 * kilohertz * bits / 8;  // transferred on both edges of the clock
  }();
  return rate;
}

}  // namespace kv8::sm90
