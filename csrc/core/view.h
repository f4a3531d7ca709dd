// SPDX-License-Identifier: Apache-2.0
// A strided window on somebody else's memory.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace tk {

constexpr int kMaxDims = 8;

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int32_t device_type = 1;  // DLPack's numbers: 1 CPU, 2 CUDA, 13 CUDA managed
  int32_t device_id = 0;
  int ndim = 0;
  int64_t shape[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};  // in elements
};

// Elements, or bytes, of a shape; false when the number does not fit int64.
inline bool count_elements(const View& v, int64_t* count) {
  int64_t n = 1;
  for (int i = 0; i < v.ndim; ++i) {
    if (__builtin_mul_overflow(n, v.shape[i], &n)) return false;
  }
  *count = n;
  return true;
}

inline bool is_empty(const View& v) {
  for (int i = 0; i < v.ndim; ++i) {
    if (v.shape[i] == 0) return true;
  }
  return false;
}

// Row-major without gaps; extents of one may carry any stride.
inline bool is_contiguous(const View& v) {
  int64_t expected = 1;
  for (int i = v.ndim - 1; i >= 0; --i) {
    if (v.shape[i] != 1 && v.strides[i] != expected) return false;
    expected *= v.shape[i];
  }
  return true;
}

}  // namespace tk
