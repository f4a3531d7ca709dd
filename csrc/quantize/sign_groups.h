// SPDX-License-Identifier: Apache-2.0
// How the channels of a row are cut into groups of bits, and in which order a group's bits make a number.
#pragma once
#include "core/op.h"

namespace tk::quantize {

constexpr int kMostBits = 63;     // of a group, so that a number fits int64
constexpr int kMostWidths = 128;  // groups of a row where they are not all equally wide

struct SignGroups {
  int64_t channels, groups;     // C, G of a row
  int bits;                     // of every group; 0: given by widths
  uint8_t widths[kMostWidths];  // (G), their sum is C
  bool high_first;              // the first channel of a group is its highest bit, not its lowest
};

// The lowest `bits` of x, 1 to 63, in reverse order.
TK_INLINE uint64_t reverse_bits(uint64_t x, int bits) {
  x = (x >> 1 & 0x5555555555555555u) | (x & 0x5555555555555555u) << 1;
  x = (x >> 2 & 0x3333333333333333u) | (x & 0x3333333333333333u) << 2;
  x = (x >> 4 & 0x0f0f0f0f0f0f0f0fu) | (x & 0x0f0f0f0f0f0f0f0fu) << 4;
  x = (x >> 8 & 0x00ff00ff00ff00ffu) | (x & 0x00ff00ff00ff00ffu) << 8;
  x = (x >> 16 & 0x0000ffff0000ffffu) | (x & 0x0000ffff0000ffffu) << 16;
  return (x >> 32 | x << 32) >> (64 - bits);
}

TK_INLINE int group_width(const SignGroups& s, int64_t group) { return s.bits ? s.bits : s.widths[group]; }

}  // namespace tk::quantize
