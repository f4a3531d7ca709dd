// SPDX-License-Identifier: Apache-2.0
// CUDA's vocabulary on the host: what kernel sources may use, spelled as CUDA spells it. Included by core/gpu.cuh only.
#pragma once
#include <math.h>
#include <string.h>

#include "simt/machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#define threadIdx (::tk::simt::thread_index())
#define blockIdx (::tk::simt::block_index())
#define blockDim (::tk::simt::block_extent())
#define gridDim (::tk::simt::grid_extent())

#define TK_SIMT_UNCHECKED __attribute__((no_sanitize("thread")))

namespace tk::simt {

template <class T>
TK_SIMT_UNCHECKED inline uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "a shuffle moves up to eight bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
TK_SIMT_UNCHECKED inline T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The lambda makes Tag, and with it the slot, unique to one declaration in one template instance.
template <class T, class Tag>
TK_SIMT_UNCHECKED inline T& shared_array(const char* name, Tag) {
  static SharedSlot slot;
  return *static_cast<T*>(shared_slot(slot, sizeof(T), alignof(T), name));
}

// An atomic is one indivisible step here, because threads switch at synchronisation only. It reports itself as what it
// is (note_atomic); its own load and store are not reported.
template <class T, class Change>
TK_SIMT_UNCHECKED inline T atomic_step(T* address, Change change) {
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace tk::simt

// ---- synchronisation and warp collectives
// -----------------------------------------------------------------------------
inline void __syncthreads(tk::simt::Site at = tk::simt::Site::current()) { tk::simt::barrier(at); }

inline void __syncwarp(unsigned mask = 0xffffffffu, tk::simt::Site at = tk::simt::Site::current()) {
  tk::simt::sync_warp(mask, at);
}

#define TK_SIMT_SHUFFLE(name, Operand, kind)                                                                 \
  template <class T>                                                                                         \
  inline T name(unsigned mask, T value, Operand operand, int width = 32,                                     \
                tk::simt::Site at = tk::simt::Site::current()) {                                             \
    return tk::simt::from_bits<T>(tk::simt::shuffle(tk::simt::Shuffle::kind, mask, tk::simt::to_bits(value), \
                                                    static_cast<int>(operand), width, at));                  \
  }
TK_SIMT_SHUFFLE(__shfl_sync, int, index)
TK_SIMT_SHUFFLE(__shfl_up_sync, unsigned, up)
TK_SIMT_SHUFFLE(__shfl_down_sync, unsigned, down)
TK_SIMT_SHUFFLE(__shfl_xor_sync, int, exchange)
#undef TK_SIMT_SHUFFLE

inline unsigned __ballot_sync(unsigned mask, int predicate, tk::simt::Site at = tk::simt::Site::current()) {
  return tk::simt::vote(mask, predicate != 0, at);
}
inline int __any_sync(unsigned mask, int predicate, tk::simt::Site at = tk::simt::Site::current()) {
  return tk::simt::vote(mask, predicate != 0, at) != 0;
}
inline int __all_sync(unsigned mask, int predicate, tk::simt::Site at = tk::simt::Site::current()) {
  return tk::simt::vote(mask, predicate == 0, at) == 0;
}

// ---- atomics ------------------------------------------------------------------------------------------------------
#define TK_SIMT_ATOMIC(name, T, expression)                                        \
  inline T name(T* address, T value) {                                             \
    tk::simt::note_atomic(address, sizeof(T));                                     \
    return tk::simt::atomic_step(address, [=](T old) -> T { return expression; }); \
  }
#define TK_SIMT_INTEGER_ATOMICS(T)                                                                      \
  TK_SIMT_ATOMIC(atomicMin, T, value < old ? value : old)                                               \
  TK_SIMT_ATOMIC(atomicMax, T, value > old ? value : old)                                               \
  TK_SIMT_ATOMIC(atomicOr, T, old | value)                                                              \
  TK_SIMT_ATOMIC(atomicAnd, T, old& value)                                                              \
  TK_SIMT_ATOMIC(atomicXor, T, old ^ value)                                                             \
  TK_SIMT_ATOMIC(atomicExch, T, (static_cast<void>(old), value))                                        \
  inline T atomicCAS(T* address, T expected, T desired) {                                               \
    tk::simt::note_atomic(address, sizeof(T));                                                          \
    return tk::simt::atomic_step(address, [=](T old) -> T { return old == expected ? desired : old; }); \
  }
TK_SIMT_INTEGER_ATOMICS(int)
TK_SIMT_INTEGER_ATOMICS(unsigned)
TK_SIMT_INTEGER_ATOMICS(unsigned long long)
// Wraps around, as on the device.
TK_SIMT_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + static_cast<unsigned>(value)))
TK_SIMT_ATOMIC(atomicAdd, unsigned, old + value)
TK_SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
TK_SIMT_ATOMIC(atomicAdd, float, old + value)
#undef TK_SIMT_INTEGER_ATOMICS
#undef TK_SIMT_ATOMIC

// ---- arithmetic -----------------------------------------------------------------------------------------------------
template <class T>
inline T __ldg(const T* address) {
  return *address;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline float __int_as_float(int x) { return tk::simt::from_bits<float>(tk::simt::to_bits(x)); }
inline int __float_as_int(float x) { return tk::simt::from_bits<int>(tk::simt::to_bits(x)); }
inline float __uint_as_float(unsigned x) { return tk::simt::from_bits<float>(tk::simt::to_bits(x)); }
inline unsigned __float_as_uint(float x) { return tk::simt::from_bits<unsigned>(tk::simt::to_bits(x)); }
// Macros, because some C libraries declare functions of these names.
#define rsqrtf(x) (1.0f / sqrtf(x))
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __fdividef(x, y) ((x) / (y))

#define TK_SIMT_MIN_MAX(T)                         \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
TK_SIMT_MIN_MAX(int)
TK_SIMT_MIN_MAX(unsigned)
TK_SIMT_MIN_MAX(long)
TK_SIMT_MIN_MAX(unsigned long)
TK_SIMT_MIN_MAX(long long)
TK_SIMT_MIN_MAX(unsigned long long)
#undef TK_SIMT_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
