// SPDX-License-Identifier: Apache-2.0
// The one include of kernel sources. nvcc sees CUDA; a C++ compiler sees the host executor of csrc/simt, which runs
// the same kernels and launchers on host memory. All inline assembly of the project is in this file.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/op.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>
#else
#include "simt/device.h"
#endif

// Arrays in shared memory, both 16-byte aligned at least (what cp.async and ldmatrix need) and never initialised:
//   TK_SHARED(tile, float[32][33]);      a fixed array `tile`
//   TK_DYNAMIC_SHARED(float, scores);    `float* scores`: the dynamic bytes of the launch
#if defined(__CUDACC__)
#define TK_SHARED(name, ...)           \
  using name##_shared_t = __VA_ARGS__; \
  __shared__ __align__(16) name##_shared_t name
#define TK_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::tk::dynamic_shared_bytes())
#else
#define TK_SHARED(name, ...) auto& name = ::tk::simt::shared_array<__VA_ARGS__>(#name, [] {})
#define TK_DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(::tk::simt::dynamic_shared())
#endif

namespace tk {

constexpr float kInfinity = __builtin_inff();
constexpr unsigned kAllLanes = 0xffffffffu;  // of a warp, for __shfl_sync and its like
constexpr size_t kMaxSharedBytes = 232448;   // 227 KB, the most a block may have on sm_90

// Starts a kernel on a stream. Raises std::runtime_error when the launch itself is refused.
#if defined(__CUDACC__)
__device__ __forceinline__ unsigned char* dynamic_shared_bytes() {
  extern __shared__ __align__(128) unsigned char tk_dynamic_shared[];
  return tk_dynamic_shared;
}

inline void check_launch(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

template <class... Params, class... Args>
inline void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared, void* stream,
                   Args... args) {
  if (dynamic_shared > 0) {  // with the kernel's own arrays it may pass 48 KB, above which a block has to ask
    check_launch(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic_shared)));
  }
  kernel<<<grid, block, dynamic_shared, static_cast<cudaStream_t>(stream)>>>(static_cast<Params>(args)...);
  check_launch(cudaGetLastError());
}
#else
template <class... Params, class... Args>
inline void launch(void (*kernel)(Params...), const simt::Grid& grid, dim3 block, size_t dynamic_shared, void*,
                   Args... args) {
  const auto bound = [=] { kernel(static_cast<Params>(args)...); };
  const auto call = [](const void* object) { (*static_cast<const decltype(bound)*>(object))(); };
  simt::run_grid(grid, block, dynamic_shared,
                 simt::Body{call, &bound, sizeof bound, reinterpret_cast<const void*>(kernel)});
}
#endif

// 2^x where that is at least 2^-126, else zero or that: without the steps of exp2f for smaller powers.
#if defined(__CUDACC__)
__device__ __forceinline__ float exp2_flushed(float x) {
  float y = 0.0f;
#if defined(__CUDA_ARCH__)
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
#endif
  return y;
}
#else
inline float exp2_flushed(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
#endif

// ---- asynchronous copies of 16 bytes from global to shared memory; both addresses 16-byte aligned -----------------
// A thread sees its own copies after cp_async_wait, other threads only after a barrier on top.
#if defined(__CUDACC__)
__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__)
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global) : "memory");
#endif
}

// Writes zeros, and reads nothing, where `valid` is false.
__device__ __forceinline__ void cp_async16_or_zero(void* shared, const void* global, bool valid) {
#if defined(__CUDA_ARCH__)
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits until at most N of this thread's committed groups are still on their way.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;\n" ::"n"(N) : "memory");
#endif
}
#else
inline void cp_async16(void* shared, const void* global, simt::Site at = simt::Site::current()) {
  simt::copy_async(shared, global, true, at);
}
inline void cp_async16_or_zero(void* shared, const void* global, bool valid, simt::Site at = simt::Site::current()) {
  simt::copy_async(shared, global, valid, at);
}
inline void cp_async_commit() { simt::copy_commit(); }
template <int N>
inline void cp_async_wait() {
  simt::copy_wait(N);
}
#endif

// ---- tensor cores -------------------------------------------------------------------------------------------------
// d (16 x 8, float) += a (16 x 16, row-major) * b (16 x 8, column-major). With g = lane / 4 and t = lane % 4, each
// register of a and b holds two neighbours along k:
//   a[0] = A[g][2t..]  a[1] = A[g+8][2t..]  a[2] = A[g][2t+8..]  a[3] = A[g+8][2t+8..]
//   b[0] = B[2t..][g]  b[1] = B[2t+8..][g]
//   d[0..1] = D[g][2t..]  d[2..3] = D[g+8][2t..]
template <class T>
struct IsBfloat;
template <>
struct IsBfloat<f16_t> {
  static constexpr bool value = false;
};
template <>
struct IsBfloat<bf16_t> {
  static constexpr bool value = true;
};

#if defined(__CUDACC__)
#define TK_MMA_ASM(type)                                                      \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type         \
               ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])               \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  if constexpr (IsBfloat<T>::value) {
    TK_MMA_ASM("bf16");
  } else {
    TK_MMA_ASM("f16");
  }
#endif
}
#undef TK_MMA_ASM
#else
template <class T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         simt::Site at = simt::Site::current()) {
  simt::mma(d, a, b, IsBfloat<T>::value, at);
}
#endif

// Loads 8 x 8 matrices of 16-bit elements from shared memory. Lane 8i + j names row j of matrix i (16 bytes, 16-byte
// aligned); x2 uses the rows of lanes 0 to 15. Lane l then holds in r[i] the elements (l / 4, 2 * (l % 4) ..) of
// matrix i, or of its transpose.
#if defined(__CUDACC__)
#define TK_LDMATRIX_X4(name, modifier)                                                         \
  __device__ __forceinline__ void name(uint32_t (&r)[4], const void* shared_row) {             \
    const auto from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));             \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" modifier ".shared.b16 {%0,%1,%2,%3}, [%4];\n" \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])                              \
                 : "r"(from)                                                                   \
                 : "memory");                                                                  \
  }
#define TK_LDMATRIX_X2(name, modifier)                                                   \
  __device__ __forceinline__ void name(uint32_t (&r)[2], const void* shared_row) {       \
    const auto from = static_cast<unsigned>(__cvta_generic_to_shared(shared_row));       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" modifier ".shared.b16 {%0,%1}, [%2];\n" \
                 : "=r"(r[0]), "=r"(r[1])                                                \
                 : "r"(from)                                                             \
                 : "memory");                                                            \
  }
TK_LDMATRIX_X4(ldmatrix_x4, "")
TK_LDMATRIX_X4(ldmatrix_x4_trans, ".trans")
TK_LDMATRIX_X2(ldmatrix_x2, "")
TK_LDMATRIX_X2(ldmatrix_x2_trans, ".trans")
#undef TK_LDMATRIX_X4
#undef TK_LDMATRIX_X2
#else
inline void ldmatrix_x4(uint32_t (&r)[4], const void* shared_row, simt::Site at = simt::Site::current()) {
  simt::load_matrix(r, shared_row, 4, false, at);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared_row, simt::Site at = simt::Site::current()) {
  simt::load_matrix(r, shared_row, 4, true, at);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* shared_row, simt::Site at = simt::Site::current()) {
  simt::load_matrix(r, shared_row, 2, false, at);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* shared_row, simt::Site at = simt::Site::current()) {
  simt::load_matrix(r, shared_row, 2, true, at);
}
#endif

}  // namespace tk
