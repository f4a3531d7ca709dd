// SPDX-License-Identifier: Apache-2.0
// What every segment op says about its segments: which token belongs to which.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tk::merge {

// Exactly one of the two forms is given.
struct SegmentIndex {
  const int64_t* offsets;  // (B, S + 1) or (S + 1): segment s holds the tokens [offsets[s], offsets[s + 1])
  const int64_t* ids;      // (B, N) or (N): the segment of each token, -1 for none
  int64_t batch_stride;    // 0 where one row serves the whole batch
};

// Sums over more members than this are cut: members add up in blocks of this many, then the blocks add up in order.
// A fixed number, so that a long segment keeps many threads busy and still gives the same bits for any number of them.
constexpr int64_t kSegmentBlock = 2048;

// Partial results of long segments live in slots, one per block. With positions counted in member order, the segment
// that starts at `start` owns the slots from start / kSlotStep on, and because a long segment spans more than
// kSlotStep positions a block, no two segments meet and slot j can be nobody's but the segment's that holds position
// (j + 1) * kSlotStep - 1.
constexpr int64_t kSlotStep = kSegmentBlock / 2;

}  // namespace tk::merge
