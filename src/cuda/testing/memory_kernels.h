// The kernels behind measure_memory.
#pragma once

#include <cstddef>

namespace kv8::cuda_testing {

/// On the default stream; `bytes` is a multiple of 1 MiB, `sink` one word that is never written.
void launch_read(const void* data, std::size_t bytes, void* sink);
/// The same with the ordinary cache policy: what is read takes the place of what L2 held.
void launch_read_and_keep(const void* data, std::size_t bytes, void* sink);
void launch_copy(const void* from, void* to, std::size_t bytes);
/// For any number of bytes up to some GiB; what is beyond a multiple of 16 stays out.
void launch_short_copy(const void* from, void* to, std::size_t bytes);

}  // namespace kv8::cuda_testing
