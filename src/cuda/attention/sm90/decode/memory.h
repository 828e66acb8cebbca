// What the decode kernels' choices depend on: how fast the device's memory is.
#pragma once

#include <cstdint>

namespace kv8::sm90 {

/// Peak bytes a second of the current device's memory; 0 where the driver does not tell.
double peak_memory_bytes_per_second();

/// Bytes of pages from which on a launch sends them through L2 like any others, at a peak bandwidth
/// of `memory` bytes a second. Pages are read once, so that what lies in L2 deserves to stay: they
/// are marked to be evicted first. On an H100 (3.35e12) a launch of many times L2's size is slowed
/// down by dirty lines that stay; on an H200 (4.8e12) the ordinary policy costs 4 to 12% (docs).
constexpr std::uint64_t ordinary_l2_from(double memory) {
  return memory < 4e12 ? std::uint64_t{384} << 20 : UINT64_MAX;
}

}  // namespace kv8::sm90
