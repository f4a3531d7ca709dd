// SPDX-License-Identifier: Apache-2.0
// From a mask policy to steps of up to kKeys keys: the spans that a tile of queries sees, however short, are put side
// by side into a list in shared memory. Lists are written two steps before their keys are multiplied, because the keys
// of one step are on their way from memory while those of another are multiplied.
#pragma once
#include "attention/query_tile.cuh"

namespace tk::attention::gpu {

constexpr int kLists = 3;  // multiplied, on their way, being written

// Keys [begin, end) of one span, in the list from `at`.
struct Piece {
  int begin, end;
  short at, full;
};

// One step. Lives in shared memory, so nothing is initialised.
template <int kKeys>
struct KeyList {
  static constexpr bool kMayBias = true;
  int key[kKeys];     // -1: no key, or one that its bias hides from all
  float bias[kKeys];  // zeros without a bias
  Piece piece[kKeys];
  int pieces, count;
  int partial;          // some row sees only a part of some piece
  unsigned valid[2];    // bits of the keys that are none of -1
  unsigned strange[2];  // keys whose values are not all finite; looked for in partial steps only
};

// Where the walk goes on, between two steps.
struct KeyWalk {
  int64_t cursor, block;
  int64_t at, end;  // the rest of the current span
  int full, done;
};

TK_INLINE uint64_t low_bits(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }
TK_INLINE uint64_t joined(const unsigned (&half)[2]) { return uint64_t{half[1]} << 32 | half[0]; }

__device__ __forceinline__ void begin_walk(KeyWalk& walk) {
  walk.cursor = 0;
  walk.block = -1;
  walk.at = walk.end = 0;
  walk.full = walk.done = 0;
}

// Cuts the walk's spans into pieces until the list is full or no span is left. All lanes of one warp walk together.
template <class P, int kKeys>
__device__ __forceinline__ int write_pieces(const P& policy, const TileRows& tile, int64_t keys, KeyWalk& w,
                                            KeyList<kKeys>& list) {
  const int lane = threadIdx.x % 32;
  Cursor cursor;
  cursor.at = w.cursor;
  cursor.block = w.block;
  int filled = 0;
  int pieces = 0;
  int partial = 0;
  while (filled < kKeys && !w.done) {
    if (w.at >= w.end) {
      Span span;
      if (!policy.next(tile, &cursor, &span)) {
        w.done = 1;
        break;
      }
      w.at = clamped(span.begin, 0, keys);
      w.end = clamped(span.end, 0, keys);
      w.full = span.full;
      continue;
    }
    const int taken = static_cast<int>(at_most(kKeys - filled, w.end - w.at));
    for (int l = lane; l < taken; l += 32) list.key[filled + l] = static_cast<int>(w.at) + l;
    if (lane == 0) {
      list.piece[pieces] = {static_cast<int>(w.at), static_cast<int>(w.at) + taken, static_cast<short>(filled),
                            static_cast<short>(w.full)};
    }
    partial |= !w.full;
    ++pieces;
    filled += taken;
    w.at += taken;
  }
  for (int l = filled + lane; l < kKeys; l += 32) list.key[l] = -1;
  if (lane == 0) {
    list.pieces = pieces;
    list.count = filled;
    list.partial = partial;
    list.strange[0] = list.strange[1] = 0;
  }
  w.cursor = cursor.at;
  w.block = cursor.block;
  return filled;
}

// Bias and validity of the keys of a list. `bias` is that of the head, or null.
template <int kKeys>
__device__ __forceinline__ void write_bias(const float* bias, KeyList<kKeys>& list) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int l = lane + 32 * half;
    bool valid = false;
    if (l < kKeys) {
      const int key = list.key[l];
      const float value = bias && key >= 0 ? bias[key] : 0.0f;
      valid = key >= 0 && value != -kInfinity;
      list.bias[l] = value;
      if (!valid) list.key[l] = -1;
    }
    const unsigned bits = __ballot_sync(kAllLanes, valid);
    if (lane == 0) list.valid[half] = bits;
  }
}

// A whole list from the rest of a long span: what most steps of a dense mask are. Asks no policy.
template <int kKeys>
__device__ __forceinline__ void write_whole(const KeyWalk& w, KeyList<kKeys>& list) {
  const int lane = threadIdx.x % 32;
  const int at = static_cast<int>(w.at);
  for (int l = lane; l < kKeys; l += 32) {
    list.key[l] = at + l;
    list.bias[l] = 0.0f;
  }
  if (lane > 0) return;
  list.piece[0] = {at, at + kKeys, 0, static_cast<short>(w.full)};
  list.pieces = 1;
  list.count = kKeys;
  list.partial = !w.full;
  const uint64_t valid = low_bits(kKeys);
  list.valid[0] = static_cast<unsigned>(valid);
  list.valid[1] = static_cast<unsigned>(valid >> 32);
  list.strange[0] = list.strange[1] = 0;
}

// Writes the next list. Called by all lanes of one warp.
template <int kKeys>
__device__ __forceinline__ void write_list(const Policy& policy, const Extents& extents, const QueryTask& task,
                                           const float* bias, KeyWalk& walk, KeyList<kKeys>& list) {
  KeyWalk w = walk;
  constexpr bool kLong = kKeys == 64;  // of half precision: float32 has short steps, and no register for this
  if (kLong && !bias && w.end - w.at >= kKeys) {
    write_whole(w, list);
    __syncwarp();
    if (threadIdx.x % 32 == 0) walk.at = w.at + kKeys;
    return;
  }
  int filled = 0;
  TK_POLICY_SWITCH(policy.kind, P, {
    const P of_head(policy, extents, task.b, task.h);
    filled = write_pieces(of_head, task.tile, extents.keys, w, list);
  })
  __syncwarp();
  if (threadIdx.x % 32 == 0) walk = w;
  if (filled > 0) write_bias(bias, list);
}

template <int kKeys>
__device__ __forceinline__ bool is_plain(const KeyList<kKeys>& list) {
  return !list.partial && joined(list.valid) == low_bits(kKeys);
}

// ---- which keys of a step a row sees --------------------------------------------------------------------------------
// Bits of row i from the interval it sees of every piece.
template <class P, int kKeys>
__device__ __forceinline__ uint64_t interval_bits(const P& policy, int64_t i, const KeyList<kKeys>& list) {
  uint64_t bits = 0;
  for (int p = 0; p < list.pieces; ++p) {
    const Piece piece = list.piece[p];
    int64_t begin = piece.begin;
    int64_t end = piece.end;
    if (!piece.full) {
      const Interval seen = policy.interval(i, {begin, end, false});
      begin = clamped(seen.begin, piece.begin, piece.end);
      end = clamped(seen.end, begin, piece.end);
    }
    bits |= low_bits(end - begin) << (piece.at + begin - piece.begin) % 64;
  }
  return bits;
}

// Bits of 16 rows from `first`, lane r keeps those of row r: every lane asks for one key, or two.
template <class P, int kKeys>
__device__ __forceinline__ uint64_t asked_bits(const P& policy, int64_t first, int64_t end,
                                               const KeyList<kKeys>& list) {
  const int lane = threadIdx.x % 32;
  const int low = lane < kKeys ? list.key[lane] : -1;
  const int high = kKeys > 32 ? list.key[lane + 32] : -1;
  uint64_t bits = 0;
  for (int r = 0; r < 16 && first + r < end; ++r) {
    const unsigned a = __ballot_sync(kAllLanes, low >= 0 && policy.allowed(first + r, low));
    const unsigned b = kKeys > 32 ? __ballot_sync(kAllLanes, high >= 0 && policy.allowed(first + r, high)) : 0;
    if (lane % 16 == r) bits = uint64_t{b} << 32 | a;
  }
  return bits;
}

// Lane l gets the bits of row l % 16 of its warp; none for a row outside the tile.
template <int kKeys>
__device__ __forceinline__ uint64_t seen_by_rows(const Policy& policy, const Extents& extents, const QueryTask& task,
                                                 const KeyList<kKeys>& list) {
  const int64_t first = task.tile.begin + threadIdx.x / 32 * 16;
  const int64_t i = first + threadIdx.x % 16;
  uint64_t bits = 0;
  if (!list.partial) {
    bits = i < task.tile.end ? ~uint64_t{0} : 0;
  } else {
    TK_POLICY_SWITCH(policy.kind, P, {
      const P of_head(policy, extents, task.b, task.h);
      if constexpr (P::kIntervals) {
        if (i < task.tile.end) bits = interval_bits(of_head, i, list);
      } else {
        bits = asked_bits(of_head, first, task.tile.end, list);
      }
    })
  }
  return bits & joined(list.valid);
}

__device__ __forceinline__ uint64_t bits_of_lane(uint64_t bits, int lane) {
  return static_cast<uint64_t>(__shfl_sync(kAllLanes, static_cast<unsigned long long>(bits), lane));
}

}  // namespace tk::attention::gpu
