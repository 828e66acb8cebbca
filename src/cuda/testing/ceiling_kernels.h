// Kernels behind GpuTimer and the wgmma ceiling.
#pragma once

#include <cstdint>

namespace kv8::cuda_testing {

/// Spins for about 20 us, then writes elapsed cycles and nanoseconds to out[0], out[1].
void launch_clock(std::uint64_t* out);

/// Every block issues `rounds` groups of four m64n128k32 FP8 products on each of its two
/// warpgroups, on data from `seed`. `sink` receives something of the result.
void launch_wgmma_ceiling(int blocks, int rounds, std::uint32_t seed, float* sink);
inline constexpr double kCeilingFlopPerRound = 2.0 * 4 * 2.0 * 64 * 128 * 32;  // a block's

}  // namespace kv8::cuda_testing
