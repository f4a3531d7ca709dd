// SPDX-License-Identifier: Apache-2.0
#include "core/shared_limit.cuh"
#include "select/power_iterate.cuh"

namespace tk::selection::gpu {
namespace {

PowerShape shape_of(int64_t tokens, int each) {
  const int64_t threads = (tokens + each - 1) / each;
  PowerShape p{threads * each, kPowerThreads, 1, 0};
  if (threads < kPowerThreads) p.width = static_cast<int>((threads + 31) / 32 * 32);
  p.groups = kPowerThreads / p.width;
  p.rows = static_cast<int>(padded_tokens((tokens + p.groups - 1) / p.groups));
  return p;
}

size_t vector_bytes(int64_t tokens, const PowerShape& p) {
  return static_cast<size_t>(padded_tokens(tokens) + p.groups * p.columns) * sizeof(float);
}

template <class T, bool kResident>
void launch_power(const PowerIterateArgs& a, const PowerShape& p, size_t shared, void* stream) {
  launch(power_iterate_kernel<T, kResident>, dim3(static_cast<unsigned>(a.batch * a.heads)),
         dim3(static_cast<unsigned>(p.width * p.groups)), shared, stream, a, p);
}

template <class T>
void launch_fitting(const PowerIterateArgs& a, void* stream) {
  const PowerShape near = shape_of(a.tokens, kColumnsOf<T, true>);
  const size_t needed = vector_bytes(a.tokens, near) + static_cast<size_t>(a.tokens * near.columns) * sizeof(T);
  constexpr size_t kStatic = 128;  // what the kernel declares beside, up to where the dynamic bytes begin
  if (a.iters > 1 && needed + kStatic <= most_shared_bytes()) return launch_power<T, true>(a, near, needed, stream);
  const PowerShape far = shape_of(a.tokens, 1);
  launch_power<T, false>(a, far, vector_bytes(a.tokens, far), stream);
}

}  // namespace

size_t power_iterate_workspace(const PowerIterateArgs&) { return 0; }

void power_iterate(const PowerIterateArgs& a, const GpuContext& context) {
  if (a.batch * a.heads * a.tokens == 0) return;
  TK_FLOAT_SWITCH(a.dtype, T, launch_fitting<T>(a, context.stream))
}

}  // namespace tk::selection::gpu
