// SPDX-License-Identifier: Apache-2.0
// Which pairs of a run of keys and a tile of queries count, where queries are the lanes. Included by per-ISA files
// only.
#pragma once
#include "attention/key_tile.h"

namespace tk::attention {
namespace {

constexpr int64_t kTileQueries = 64;

struct AllSeen {
  TK_MEMBER vf keep(int64_t, int64_t, vf x) const { return x; }
};

// Key j of the run is seen by the queries with begin <= j < end.
struct IntervalSeen {
  int32_t begin[kTileQueries];
  int32_t end[kTileQueries];

  template <class P>
  void fill(const P& policy, const TileRows& tile, const KeyRun& run) {
    const Span span{run.begin, run.begin + run.count, false};
    for (int64_t i = 0; i < kTileQueries; ++i) {
      const bool exists = tile.begin + i < tile.end;
      const Interval seen = exists ? policy.interval(tile.begin + i, span) : Interval{0, 0};
      begin[i] = static_cast<int32_t>(at_most(at_least(seen.begin - run.begin, 0), run.count));
      end[i] = static_cast<int32_t>(at_most(at_least(seen.end - run.begin, 0), run.count));
    }
  }
  TK_MEMBER vf keep(int64_t j, int64_t i, vf x) const {
    const vi key = set_int(static_cast<int32_t>(j));
    return select((key >= load_int(begin + i)) & (key < load_int(end + i)), x, zero());
  }
};

struct PairSeen {
  int32_t* seen;  // [key of the run][query], -1 or 0

  template <class P>
  void fill(const P& policy, const TileRows& tile, const KeyRun& run) {
    for (int64_t i = 0; i < kTileQueries; ++i) {
      const bool exists = tile.begin + i < tile.end;
      for (int64_t j = 0; j < run.count; ++j) {
        seen[j * kTileQueries + i] = exists && policy.allowed(tile.begin + i, run.begin + j) ? -1 : 0;
      }
    }
  }
  TK_MEMBER vf keep(int64_t j, int64_t i, vf x) const {
    return select(load_int(seen + j * kTileQueries + i), x, zero());
  }
};

}  // namespace
}  // namespace tk::attention
