// SPDX-License-Identifier: Apache-2.0
// Rows written once and not read back: copies, zeros, and rows made in scratch. Included by *.simd.inc.
#pragma once
#include "core/simd.h"

namespace tk {
namespace {

// From this size on an answer goes past the caches: it would not stay in them, and a store that bypasses them saves
// reading every line before it is overwritten. Measured for rows of 2 and 3 KB on one core: equal at 8 MB, 1.4 times
// as fast at 32 MB, twice at 128 MB.
constexpr int64_t kStreamBytes = int64_t{16} << 20;

typedef float vf_anywhere __attribute__((vector_size(4 * W), may_alias, aligned(1)));

#if defined(__x86_64__)
TK_INLINE void stream(float* p, vf x) {
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)x);
#elif defined(__AVX__)
  _mm256_stream_ps(p, (__m256)x);
#else
  _mm_stream_ps(p, (__m128)x);
#endif
}
TK_INLINE void stream_end() { _mm_sfence(); }
constexpr bool kCanStream = true;
#else
TK_INLINE void stream(float* p, vf x) { store(p, x); }
TK_INLINE void stream_end() {}
constexpr bool kCanStream = false;
#endif

// Writes rows of an answer of `rows` rows without gaps. Each task of a parallel loop ends with finish().
class RowWriter {
 public:
  RowWriter(void* out, int64_t rows, int64_t row_bytes)
      : out_(static_cast<char*>(out)),
        row_bytes_(row_bytes),
        streams_(kCanStream && rows * row_bytes >= kStreamBytes && row_bytes % kVector == 0 &&
                 reinterpret_cast<uintptr_t>(out) % kVector == 0) {}

  bool streams() const { return streams_; }
  void* row(int64_t i) const { return out_ + i * row_bytes_; }

  void copy(int64_t i, const void* from) const {
    char* to = out_ + i * row_bytes_;
    const auto* f = static_cast<const char*>(from);
    if (row_bytes_ < kVector) {
      __builtin_memcpy(to, f, static_cast<size_t>(row_bytes_));
      return;
    }
    if (streams_) {
      for (int64_t at = 0; at < row_bytes_; at += kVector) stream(reinterpret_cast<float*>(to + at), vector_at(f + at));
      return;
    }
    for (int64_t at = 0; at + kVector <= row_bytes_; at += kVector) vector_at(to + at) = vector_at(f + at);
    // A last vector that overlaps the one before: rows may end at any byte.
    vector_at(to + row_bytes_ - kVector) = vector_at(f + row_bytes_ - kVector);
  }

  void zero(int64_t i) const {
    char* to = out_ + i * row_bytes_;
    if (!streams_) {
      __builtin_memset(to, 0, static_cast<size_t>(row_bytes_));
      return;
    }
    for (int64_t at = 0; at < row_bytes_; at += kVector) stream(reinterpret_cast<float*>(to + at), vf{});
  }

  void finish() const {
    if (streams_) stream_end();
  }

 private:
  static constexpr int64_t kVector = 4 * W;

  static const vf_anywhere& vector_at(const char* p) { return *reinterpret_cast<const vf_anywhere*>(p); }
  static vf_anywhere& vector_at(char* p) { return *reinterpret_cast<vf_anywhere*>(p); }

  char* out_;
  int64_t row_bytes_;
  bool streams_;
};

}  // namespace
}  // namespace tk
