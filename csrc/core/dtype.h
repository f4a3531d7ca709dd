// SPDX-License-Identifier: Apache-2.0
// Element types of every array tokernel touches. Compiled by g++ (C++20) and nvcc (C++17, host and device).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define TK_HOST_DEVICE __host__ __device__
#else
#define TK_HOST_DEVICE
#endif
// `static`: the function stays local to its translation unit, so that no copy compiled for a newer
// instruction set can be picked by the linker for the whole program.
#define TK_INLINE static inline TK_HOST_DEVICE __attribute__((always_inline, unused))

namespace tk {

enum class DType : uint8_t { f32, f16, bf16, f64, i32, i64, u8, boolean, i8 };

TK_INLINE size_t item_size(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
      return 2;
    default:
      return 1;
  }
}

// Storage of the 16-bit floats. They hold bits only: arithmetic happens in float.
struct f16_t {
  uint16_t bits;
};
struct bf16_t {
  uint16_t bits;
};

namespace detail {
template <class To, class From>
TK_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
}  // namespace detail

TK_INLINE float to_float(float x) { return x; }

TK_INLINE float to_float(bf16_t x) { return detail::bit_cast<float>(uint32_t{x.bits} << 16); }

TK_INLINE float to_float(f16_t x) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(x.bits));
#else
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{x.bits & 0x7fffu} << 13;
  // Adding 112 to the exponent of a normal number; the multiplication does it for subnormals as well.
  const float scaled = detail::bit_cast<float>(magnitude) * detail::bit_cast<float>(uint32_t{0x77800000u});
  const uint32_t infinite = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return detail::bit_cast<float>(detail::bit_cast<uint32_t>(scaled) | infinite | sign);
#endif
}

namespace detail {

TK_INLINE float from_float(float x, float*) { return x; }

// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
TK_INLINE bf16_t from_float(float x, bf16_t*) {
#ifdef __CUDA_ARCH__
  return bf16_t{__bfloat16_as_ushort(__float2bfloat16_rn(x))};
#else
  const uint32_t u = detail::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16_t{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return bf16_t{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
#endif
}

TK_INLINE f16_t from_float(float x, f16_t*) {
#ifdef __CUDA_ARCH__
  return f16_t{__half_as_ushort(__float2half_rn(x))};
#else
  const uint32_t u = detail::bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return f16_t{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return f16_t{static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520 rounds to infinity
  if (magnitude < 0x38800000u) {  // below the smallest normal half: the addition rounds to a multiple of 2^-24
    const float shifted = detail::bit_cast<float>(magnitude) + 0.5f;
    return f16_t{static_cast<uint16_t>(sign | (detail::bit_cast<uint32_t>(shifted) - 0x3f000000u))};
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
  return f16_t{static_cast<uint16_t>(sign | (rounded >> 13))};
#endif
}

}  // namespace detail

template <class T>
TK_INLINE T from_float(float x) {
  return detail::from_float(x, static_cast<T*>(nullptr));
}

// Runs BODY with the type alias T bound to the C++ type of a float dtype.
#define TK_FLOAT_SWITCH(dtype, T, ...) \
  switch (dtype) {                     \
    case ::tk::DType::f16: {           \
      using T = ::tk::f16_t;           \
      __VA_ARGS__;                     \
      break;                           \
    }                                  \
    case ::tk::DType::bf16: {          \
      using T = ::tk::bf16_t;          \
      __VA_ARGS__;                     \
      break;                           \
    }                                  \
    default: {                         \
      using T = float;                 \
      __VA_ARGS__;                     \
    }                                  \
  }

}  // namespace tk
