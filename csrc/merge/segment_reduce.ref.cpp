// SPDX-License-Identifier: Apache-2.0
#include "merge/segment_reduce.h"

#include <algorithm>
#include <vector>

namespace tk::merge::ref {
namespace {

// The tokens of each segment, in ascending order.
std::vector<std::vector<int64_t>> members_of(const SegmentReduceArgs& a, int64_t b) {
  std::vector<std::vector<int64_t>> members(a.segments);
  const int64_t* ids = a.index.ids ? a.index.ids + b * a.index.batch_stride : nullptr;
  const int64_t* offsets = ids ? nullptr : a.index.offsets + b * a.index.batch_stride;
  for (int64_t n = 0; ids && n < a.tokens; ++n) {
    if (ids[n] >= 0) members[ids[n]].push_back(n);
  }
  for (int64_t s = 0; offsets && s < a.segments; ++s) {
    for (int64_t n = offsets[s]; n < offsets[s + 1]; ++n) members[s].push_back(n);
  }
  return members;
}

float combine(SegmentMode mode, float a, float b) {
  if (mode != SegmentMode::amax) return a + b;
  return b > a || b != b ? b : a;
}

// The members of one segment, one channel: blocks first, then over the blocks.
template <class Value>
float reduce_members(SegmentMode mode, int64_t count, Value value) {
  float total = 0;
  for (int64_t begin = 0; begin < count; begin += kSegmentBlock) {
    float block = value(begin);
    for (int64_t i = begin + 1; i < std::min(begin + kSegmentBlock, count); ++i) block = combine(mode, block, value(i));
    total = begin ? combine(mode, total, block) : block;
  }
  return total;
}

template <class T>
void reduce_segment(const SegmentReduceArgs& a, int64_t b, int64_t s, const std::vector<int64_t>& members) {
  const T* x = static_cast<const T*>(a.x) + b * a.x_batch_stride;
  const auto weight = [&](int64_t token) { return a.weight ? a.weight[b * a.tokens + token] : 1.0f; };
  double mass = 0;
  for (const int64_t token : members) mass += weight(token);
  if (a.mass) a.mass[b * a.segments + s] = static_cast<float>(mass);
  const float divisor = a.mode == SegmentMode::mean ? static_cast<float>(mass) : 1.0f;
  for (int64_t c = 0; c < a.width; ++c) {
    const float total = reduce_members(a.mode, static_cast<int64_t>(members.size()), [&](int64_t i) {
      return weight(members[i]) * to_float(x[members[i] * a.x_row_stride + c]);
    });
    static_cast<T*>(a.out)[(b * a.segments + s) * a.width + c] = from_float<T>(divisor == 0 ? 0.0f : total / divisor);
  }
}

}  // namespace

void segment_reduce(const SegmentReduceArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const auto members = members_of(a, b);
    for (int64_t s = 0; s < a.segments; ++s) TK_FLOAT_SWITCH(a.dtype, T, reduce_segment<T>(a, b, s, members[s]));
  }
}

}  // namespace tk::merge::ref
