// SPDX-License-Identifier: Apache-2.0
// What each of K partial softmaxes weighs in the whole one, for W neighbouring rows. Included by per-ISA files only.
#pragma once
#include "core/simd.h"

namespace tk::tree {
namespace {

constexpr float kNoKeys = -__builtin_inff();
constexpr float kUnseen = -1.0f;  // instead of a weight: the part saw no key, and what it holds must not be read

struct WeightedRows {
  vf most, sum;  // exp(lse) of a row is exp(most) * sum
};

// weights [K][W]: of `count` rows whose lses lie side by side. They add up to 1.
TK_INLINE WeightedRows weigh_parts(const float* lses, int64_t part_stride, int64_t parts, int count, float* weights) {
  vf most = set(kNoKeys);
  for (int64_t k = 0; k < parts; ++k) most = max(load_n(lses + k * part_stride, count, kNoKeys), most);
  const vf base = select(most == kNoKeys, zero(), most);
  vf sum = zero();
  for (int64_t k = 0; k < parts; ++k) {
    const vf lse = load_n(lses + k * part_stride, count, kNoKeys);
    const vf weight = exp(lse - base);
    sum += weight;
    store(weights + k * W, select(lse == kNoKeys, set(kUnseen), weight));
  }
  const vf inverse = set(1.0f) / sum;
  for (int64_t k = 0; k < parts; ++k) {
    const vf weight = load(weights + k * W);
    store(weights + k * W, select(weight == kUnseen, weight, weight * inverse));
  }
  return {most, sum};
}

}  // namespace
}  // namespace tk::tree
