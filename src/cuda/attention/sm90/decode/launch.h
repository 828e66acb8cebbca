// From DecodeArgs to a kernel launch.
#pragma once

#include "base/result.h"
#include "cuda/attention/sm90/decode/params.h"

struct CUstream_st;

namespace kv8::sm90 {

/// Bytes that `DecodeArgs::workspace` needs on the current device, whatever the lengths are.
Result<std::size_t> decode_workspace_bytes(const DecodeArgs& args);

/// Validates `args` and enqueues one kernel on `stream` (null: the default stream).
Status launch_decode(const DecodeArgs& args, CUstream_st* stream);

/// The same cut into at most `blocks` runs instead of one a multiprocessor, for tests.
Status launch_decode(const DecodeArgs& args, CUstream_st* stream, int blocks);

}  // namespace kv8::sm90
