// From a launch's element type, head size and rows to the kernel compiled for them.
#pragma once

#include <driver_types.h>

namespace kv8::decode {

/// Calls `start.template operator()<kElemBytes, kHeadDim, kRows>()` for the given values:
/// `elem_bytes` 1 or 2, `head_dim` 64 or 128, `rows` 8 or 16.
template <class Start>
cudaError_t for_shape(int elem_bytes, int head_dim, int rows, const Start& start) {
  const auto for_rows = [&]<int kElemBytes, int kHeadDim>() {
    return rows == 8 ? start.template operator()<kElemBytes, kHeadDim, 8>()
                     : start.template operator()<kElemBytes, kHeadDim, 16>();
  };
  if (head_dim == 64) {
    return elem_bytes == 1 ? for_rows.template operator()<1, 64>()
                           : for_rows.template operator()<2, 64>();
  }
  return elem_bytes == 1 ? for_rows.template operator()<1, 128>()
                         : for_rows.template operator()<2, 128>();
}

}  // namespace kv8::decode
