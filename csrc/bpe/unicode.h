// SPDX-License-Identifier: Apache-2.0
// Characters of UTF-8 text and their classes (Unicode 16.0), on the host and on the device.
//
// A byte that begins no well-formed sequence (Unicode, table 3-7: no surrogates, nothing over-long, nothing beyond
// U+10FFFF, nothing cut off by the end of the text) is a character of its own, of class `other`.
#pragma once
#include "core/dtype.h"

#if defined(__CUDACC__)
#define TK_UNICODE_TABLE static __device__ const
namespace tk::bpe::device {
#include "bpe/unicode_table.inc"
}
#undef TK_UNICODE_TABLE
#endif
#define TK_UNICODE_TABLE [[maybe_unused]] static const
namespace tk::bpe::host {
#include "bpe/unicode_table.inc"
}
#undef TK_UNICODE_TABLE

namespace tk::bpe {

// The numbers are those of make_unicode_table.py.
enum class Class : uint8_t { other, space, newline, number, mark, upper, title, lower, modifier, letter };

// A set of classes; bit c stands for class c.
using Classes = uint32_t;
TK_HOST_DEVICE constexpr Classes set_of(Class c) { return 1u << static_cast<int>(c); }
template <class... More>
TK_HOST_DEVICE constexpr Classes set_of(Class c, More... more) {
  return set_of(c) | set_of(more...);
}

constexpr Classes kNewline = set_of(Class::newline);                  // \r \n
constexpr Classes kSpace = set_of(Class::space, Class::newline);      // \s
constexpr Classes kNumber = set_of(Class::number);                    // \p{N}
constexpr Classes kMark = set_of(Class::mark);                        // \p{M}
constexpr Classes kCapital = set_of(Class::upper, Class::title);      // \p{Lu} \p{Lt}
constexpr Classes kUncased = set_of(Class::modifier, Class::letter);  // \p{Lm} \p{Lo}
constexpr Classes kLetter = kCapital | kUncased | set_of(Class::lower);
constexpr Classes kUpperLike = kCapital | kUncased | kMark;              // U of o200k
constexpr Classes kLowerLike = set_of(Class::lower) | kUncased | kMark;  // V of o200k
constexpr Classes kOther = set_of(Class::other);                         // [^\s\p{L}\p{M}\p{N}]
constexpr Classes kSymbol = kOther | kMark;                              // [^\s\p{L}\p{N}]

TK_INLINE Class class_of(uint32_t code_point) {
#if defined(__CUDA_ARCH__)
  using namespace device;
#else
  using namespace host;
#endif
  const uint32_t block = code_point / 128;
  if (block >= sizeof(kUnicodeBlock)) return Class::other;
  return static_cast<Class>(kUnicodeClass[kUnicodeBlock[block] * 128 + code_point % 128]);
}

struct Char {
  Classes set;  // its class, as a set of one
  int bytes;
};

// Bytes of the well-formed sequence at p, 2 to 4, and its code point; 0 where there is none. p[0] >= 0x80, p < end.
TK_INLINE int read_sequence(const uint8_t* p, const uint8_t* end, uint32_t* code_point) {
  const uint32_t lead = p[0];
  const auto room = end - p;
  if (lead < 0xc2 || lead > 0xf4 || room < 2) return 0;
  const uint32_t second = p[1] ^ 0x80u;
  if (second > 0x3f) return 0;
  if (lead < 0xe0) {
    *code_point = (lead & 0x1f) << 6 | second;
    return 2;
  }
  const uint32_t third = room > 2 ? p[2] ^ 0x80u : 0xff;
  if (third > 0x3f) return 0;
  if (lead < 0xf0) {
    *code_point = (lead & 0xf) << 12 | second << 6 | third;
    const bool surrogate = *code_point - 0xd800 < 0x800;
    return *code_point < 0x800 || surrogate ? 0 : 3;
  }
  const uint32_t fourth = room > 3 ? p[3] ^ 0x80u : 0xff;
  if (fourth > 0x3f) return 0;
  *code_point = (lead & 7) << 18 | second << 12 | third << 6 | fourth;
  return *code_point - 0x10000 < 0x100000 ? 4 : 0;
}

// Whether a character begins at p: well-formed sequences never overlap, so whichever holds p is found from here.
TK_INLINE bool is_char_start(const uint8_t* p, const uint8_t* begin, const uint8_t* end) {
  for (int back = 1; back < 4 && p - begin >= back && p < end; ++back) {
    uint32_t code_point = 0;
    if (p[-back] >= 0xc0) return read_sequence(p - back, end, &code_point) <= back;
  }
  return true;
}

// The character at p, p < end.
TK_INLINE Char read_char(const uint8_t* p, const uint8_t* end) {
  if (*p < 0x80) return {set_of(class_of(*p)), 1};
  uint32_t code_point = 0;
  const int bytes = read_sequence(p, end, &code_point);
  if (bytes == 0) return {kOther, 1};
  return {set_of(class_of(code_point)), bytes};
}

// The character that ends at p, where one ends and begin < p.
TK_INLINE Char read_char_before(const uint8_t* p, const uint8_t* begin, const uint8_t* end) {
  if (p[-1] < 0x80) return {set_of(class_of(p[-1])), 1};
  for (int bytes = 2; bytes <= 4 && p - begin >= bytes; ++bytes) {
    uint32_t code_point = 0;
    if (p[-bytes] < 0xc0) continue;
    if (read_sequence(p - bytes, end, &code_point) != bytes) break;
    return {set_of(class_of(code_point)), bytes};
  }
  return {kOther, 1};
}

}  // namespace tk::bpe
