// SPDX-License-Identifier: Apache-2.0
// W vectors of W floats, transposed in registers. Local to its translation unit, as simd.h.
#pragma once
#include "core/simd.h"

namespace tk {
namespace {

// Which lanes of two vectors come together: within each four lanes the lower or upper two, woven one by one (floats)
// or side by side (pairs); or the even or odd fours of x, then those of y (quads). One instruction each.
enum class Pick { floats, pairs, quads };

template <Pick kPick, bool kUpper>
TK_INLINE vf weave(vf x, vf y) {
  constexpr int kQuads = W < 8 ? 1 : W / 8;  // that either vector gives
  vi pick;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) {
    const int quad = i / 4;
    const int k = i % 4;
    if (kPick == Pick::floats) pick[i] = 4 * quad + 2 * kUpper + k / 2 + k % 2 * W;
    if (kPick == Pick::pairs) pick[i] = 4 * quad + 2 * kUpper + k % 2 + k / 2 * W;
    if (kPick == Pick::quads) pick[i] = 8 * (quad % kQuads) + 4 * kUpper + k + quad / kQuads * W;
  }
  return __builtin_shuffle(x, y, pick);
}

// Lane l of row i and lane i of row l change places.
TK_INLINE void transpose(vf (&r)[W]) {
#pragma GCC unroll 4
  for (int g = 0; g < W; g += 4) {  // 4 x 4 within each four lanes
    const vf a = weave<Pick::floats, false>(r[g], r[g + 1]);
    const vf b = weave<Pick::floats, true>(r[g], r[g + 1]);
    const vf c = weave<Pick::floats, false>(r[g + 2], r[g + 3]);
    const vf d = weave<Pick::floats, true>(r[g + 2], r[g + 3]);
    r[g] = weave<Pick::pairs, false>(a, c);
    r[g + 1] = weave<Pick::pairs, true>(a, c);
    r[g + 2] = weave<Pick::pairs, false>(b, d);
    r[g + 3] = weave<Pick::pairs, true>(b, d);
  }
  // Then the fours of rows c, c + 4, c + 8 .. meet.
#pragma GCC unroll 4
  for (int c = 0; W > 4 && c < 4; ++c) {
    vf even[W / 4];
    vf odd[W / 4];
#pragma GCC unroll 4
    for (int i = 0; i < W / 4; i += 2) {
      even[i / 2] = weave<Pick::quads, false>(r[c + 4 * i], r[(c + 4 * i + 4) % W]);
      odd[i / 2] = weave<Pick::quads, true>(r[c + 4 * i], r[(c + 4 * i + 4) % W]);
    }
    if constexpr (W == 16) {
      r[c] = weave<Pick::quads, false>(even[0], even[1]);
      r[c + 4] = weave<Pick::quads, false>(odd[0], odd[1]);
      r[c + 8] = weave<Pick::quads, true>(even[0], even[1]);
      r[c + 12] = weave<Pick::quads, true>(odd[0], odd[1]);
    } else {
      r[c] = even[0];
      r[(c + 4) % W] = odd[0];
    }
  }
}

}  // namespace
}  // namespace tk
