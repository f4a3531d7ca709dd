// SPDX-License-Identifier: Apache-2.0
#include "quantize/rvq_decode.cuh"

namespace tk::quantize::gpu {
namespace {

template <class T, int P>
void launch_decode(const RvqDecodeArgs& a, void* stream) {
  const int64_t threads = a.groups * a.rows * (a.width / P);
  const auto blocks = static_cast<unsigned>((threads + kDecodeThreads - 1) / kDecodeThreads);
  launch(rvq_decode_kernel<T, P>, dim3(blocks), dim3(kDecodeThreads), 0, stream, a);
}

template <class T>
void decode_rows(const RvqDecodeArgs& a, void* stream) {
  constexpr int kWide = 16 / sizeof(T);
  const auto addresses = reinterpret_cast<uintptr_t>(a.codes) | reinterpret_cast<uintptr_t>(a.out);
  const int64_t extents = a.width | a.group_stride | a.book_stride | a.code_stride;
  if (addresses % 16 == 0 && extents % kWide == 0) return launch_decode<T, kWide>(a, stream);
  launch_decode<T, 1>(a, stream);
}

}  // namespace

size_t rvq_decode_workspace(const RvqDecodeArgs&) { return 0; }

void rvq_decode(const RvqDecodeArgs& a, const GpuContext& context) {
  if (a.groups * a.rows * a.width == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, decode_rows<T>(a, context.stream))
}

}  // namespace tk::quantize::gpu
