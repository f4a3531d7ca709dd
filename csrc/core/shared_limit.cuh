// SPDX-License-Identifier: Apache-2.0
// How much shared memory a block may have on the current device: 163 KB on sm_80, 227 KB on sm_90, less on others.
#pragma once
#include "core/gpu.cuh"

namespace tk {

inline size_t most_shared_bytes() {
#if defined(__CUDACC__)
  int device = 0;
  int bytes = 0;
  check_launch(cudaGetDevice(&device));
  check_launch(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<size_t>(bytes);
#else
  return kMaxSharedBytes;
#endif
}

}  // namespace tk
