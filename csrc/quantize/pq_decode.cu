// SPDX-License-Identifier: Apache-2.0
#include "quantize/pq_decode.cuh"

namespace tk::quantize::gpu {
namespace {

template <class C, class T>
void launch_pq_decode(const PqDecodeArgs& a, int64_t total, void* stream) {
  const dim3 blocks(static_cast<unsigned>((total + kPqDecodeThreads - 1) / kPqDecodeThreads));
  launch(pq_decode_kernel<C, T>, blocks, dim3(kPqDecodeThreads), 0, stream, a);
}

}  // namespace

size_t pq_decode_workspace(const PqDecodeArgs&) { return 0; }

void pq_decode(const PqDecodeArgs& a, const GpuContext& context) {
  const int64_t total = a.codes.rows * a.codes.parts * a.width;
  if (total == 0) return;
  TK_CODE_SWITCH(a.codes.dtype, C, TK_FLOAT_SWITCH(a.dtype, T, (launch_pq_decode<C, T>(a, total, context.stream))))
}

}  // namespace tk::quantize::gpu
