// Reading memory as fast as one thread can.
#pragma once

#include <cstdint>

namespace kv8::bench {

/// The sum of `count` words, modulo 2^64.
std::uint64_t sum_words(const std::uint64_t* words, std::int64_t count);

}  // namespace kv8::bench
