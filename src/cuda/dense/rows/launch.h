// Launches of the kernels that go over rows and pages once. Each validates its arguments and
// enqueues one kernel on `stream` (null: the default stream).
#pragma once

#include "base/result.h"
#include "cuda/dense/rows/params.h"

struct CUstream_st;

namespace kv8 {

Status launch_rms_norm(const RmsNormArgs& args, CUstream_st* stream);
Status launch_swiglu(const SwiGluArgs& args, CUstream_st* stream);
Status launch_embed(const EmbedArgs& args, CUstream_st* stream);
Status launch_select_rows(const SelectRowsArgs& args, CUstream_st* stream);
Status launch_copy_pages(const CopyPagesArgs& args, CUstream_st* stream);
Status launch_fill(const FillArgs& args, CUstream_st* stream);

}  // namespace kv8
