// The calls from host code into the file that holds the kernels.
#pragma once

#include <driver_types.h>

#include "cuda/dense/rows/params.h"

namespace kv8::rows {

cudaError_t start_rms_norm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t start_swiglu(const SwiGluArgs& args, cudaStream_t stream);
cudaError_t start_embed(const EmbedArgs& args, cudaStream_t stream);
cudaError_t start_select_rows(const SelectRowsArgs& args, cudaStream_t stream);
cudaError_t start_copy_pages(const CopyPagesArgs& args, cudaStream_t stream);
cudaError_t start_fill(const FillArgs& args, cudaStream_t stream);

}  // namespace kv8::rows
