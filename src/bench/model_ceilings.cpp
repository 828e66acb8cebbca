#include "bench/model_ceilings.h"

#include <algorithm>
#include <vector>

#include "bench/cpu_ceilings.h"

#if KV8_HAS_CUDA
#include "cuda/testing/gemm_ceiling.h"
#include "cuda/testing/gpu_timer.h"
#include "cuda/testing/memory_ceilings.h"
#endif

namespace kv8::bench {
namespace {

Ceilings cpu_ceilings(std::span<const GemmShape> shapes, std::int64_t weight_bytes, int threads) {
  const std::int64_t bytes = std::min(weight_bytes, std::int64_t{2} << 30);
  const std::vector<GemmShape> list(shapes.begin(), shapes.end());
  return {static_cast<double>(bytes) / seconds_to_read(bytes, threads),
          flop_of(shapes) / seconds_for_gemms(list, threads)};
}

#if KV8_HAS_CUDA
Result<Ceilings> gpu_ceilings(std::span<const GemmShape> shapes, DType dtype) {
  std::vector<cuda_testing::GemmSize> sizes;
  for (const GemmShape& shape : shapes) sizes.push_back({shape.rows, shape.in, shape.out});
  const auto memory = KV8_TRY(cuda_testing::measure_memory());
  const double seconds = KV8_TRY(cuda_testing::seconds_for_gemms(sizes, dtype));
  return Ceilings{memory.read_gb_s * 1e9, flop_of(shapes) / seconds};
}
#endif

}  // namespace

Result<std::string> machine_name(std::string_view backend, int num_threads) {
#if KV8_HAS_CUDA
  if (backend == "cuda") return cuda_testing::device_name();
#endif
  KV8_CHECK(backend == "cpu", "backend {}", backend);
  return machine_text(num_threads);
}

Result<Ceilings> measure_ceilings(std::string_view backend, std::span<const GemmShape> shapes,
                                  DType dtype, std::int64_t weight_bytes, int num_threads) {
#if KV8_HAS_CUDA
  if (backend == "cuda") return gpu_ceilings(shapes, dtype);
#endif
  KV8_CHECK(backend == "cpu", "backend {}", backend);
  static_cast<void>(dtype);
  return cpu_ceilings(shapes, weight_bytes, num_threads);
}

}  // namespace kv8::bench
