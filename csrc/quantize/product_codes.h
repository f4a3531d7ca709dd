// SPDX-License-Identifier: Apache-2.0
// Codes of product quantization: for every row and each of its M parts the number of a centroid.
#pragma once
#include "core/dtype.h"

namespace tk::quantize {

// (N, M) uint8, int32 or int64; rows contiguous, any outer stride.
struct ProductCodes {
  const void* data;
  DType dtype;
  int64_t rows, parts;  // N, M
  int64_t row_stride;   // in elements
};

// Runs BODY with the type alias C bound to the C++ type of the codes.
#define TK_CODE_SWITCH(dtype, C, ...) \
  switch (dtype) {                    \
    case ::tk::DType::u8: {           \
      using C = uint8_t;              \
      __VA_ARGS__;                    \
      break;                          \
    }                                 \
    case ::tk::DType::i32: {          \
      using C = int32_t;              \
      __VA_ARGS__;                    \
      break;                          \
    }                                 \
    default: {                        \
      using C = int64_t;              \
      __VA_ARGS__;                    \
    }                                 \
  }

template <class C>
TK_INLINE const C* row_codes(const ProductCodes& codes, int64_t row) {
  return static_cast<const C*>(codes.data) + row * codes.row_stride;
}

}  // namespace tk::quantize
