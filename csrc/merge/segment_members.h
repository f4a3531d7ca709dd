// SPDX-License-Identifier: Apache-2.0
// Tokens grouped by segment, for the SIMD kernels: local to each translation unit, no STL.
#pragma once
#include "core/counting_sort.h"
#include "core/parallel.h"
#include "core/scratch.h"
#include "core/segment_at.h"
#include "merge/segment_index.h"

namespace tk::merge {
namespace {

// Segment s has the members [offsets[s], offsets[s + 1]); member i is token order[i], or i itself where order is null.
struct Members {
  const int64_t* offsets;
  const int64_t* order;

  int64_t token(int64_t member) const { return order ? order[member] : member; }
  int64_t count(int64_t segment) const { return offsets[segment + 1] - offsets[segment]; }
};

// The members of every batch row, sorted once where the index is by ids.
class MemberTable {
 public:
  MemberTable(const SegmentIndex& index, int64_t batch, int64_t tokens, int64_t segments)
      : index_(index),
        rows_(!index.ids           ? 0
              : index.batch_stride ? batch
                                   : 1),
        offsets_stride_(segments + 1),
        order_stride_(tokens),
        offsets_(rows_ * offsets_stride_),
        order_(rows_ * order_stride_) {
    parallel_ranges(rows_, tokens * 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        counting_sort(index.ids + r * tokens, tokens, segments, &offsets_[r * offsets_stride_],
                      &order_[r * order_stride_]);
      }
    });
  }

  Members of(int64_t b) const {
    if (!index_.ids) return {index_.offsets + b * index_.batch_stride, nullptr};
    const int64_t r = index_.batch_stride ? b : 0;
    return {&offsets_[r * offsets_stride_], &order_[r * order_stride_]};
  }

 private:
  SegmentIndex index_;
  int64_t rows_, offsets_stride_, order_stride_;
  Scratch<int64_t> offsets_, order_;
};

// The segment of each token, for tokens visited in ascending order: offsets are searched once a batch row.
class SegmentCursor {
 public:
  SegmentCursor(const SegmentIndex& index, int64_t segments) : index_(index), segments_(segments) {}

  int64_t segment_of(int64_t b, int64_t token) {
    if (index_.ids) return index_.ids[b * index_.batch_stride + token];
    const int64_t* offsets = index_.offsets + b * index_.batch_stride;
    if (b != batch_) {
      batch_ = b;
      segment_ = segment_at(offsets, segments_, token);
    }
    while (offsets[segment_ + 1] <= token) ++segment_;
    return segment_;
  }

 private:
  SegmentIndex index_;
  int64_t segments_;
  int64_t batch_ = -1;
  int64_t segment_ = 0;
};

}  // namespace
}  // namespace tk::merge
