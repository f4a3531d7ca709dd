// SPDX-License-Identifier: Apache-2.0
// Rows of probabilities by vectors. Included by per-ISA files only.
#pragma once
#include "core/scratch.h"
#include "core/simd.h"
#include "tree/entropy.h"

namespace tk::tree {
namespace {

constexpr int kHalf = W / 2;
typedef float vg __attribute__((vector_size(2 * W), may_alias));  // half as many floats as a vector has
typedef float vg_unaligned __attribute__((vector_size(2 * W), may_alias, aligned(4)));
typedef double vd __attribute__((vector_size(4 * W), may_alias));  // as many doubles
typedef int64_t vl __attribute__((vector_size(4 * W), may_alias));
typedef uint64_t vul __attribute__((vector_size(4 * W), may_alias));

struct LaneNumbers {
  using F = vd;
  using I = vl;
};

TK_INLINE vd widen(vg x) {
#if defined(__AVX512F__)  // GCC 12 makes two halves of the conversion
  return (vd)_mm512_maskz_cvtps_pd(0xff, (__m256)x);
#else
  return __builtin_convertvector(x, vd);
#endif
}
TK_INLINE vd load_wide(const float* p) { return widen(*reinterpret_cast<const vg_unaligned*>(p)); }
TK_INLINE vul based_units(vd x) { return (vul)(x + kUnitBase); }

// The units in a vector of sums over `count` items each of based_units; overflow of the bases cancels out.
TK_INLINE int64_t sum_lanes(vul sums, int64_t count) {
  uint64_t all = 0;
#pragma GCC unroll 8
  for (int i = 0; i < kHalf; ++i) all += sums[i];
  return static_cast<int64_t>(all - static_cast<uint64_t>(count) * kHalf * kUnitBaseBits);
}

TK_INLINE int64_t padded(int64_t width) { return (width + W - 1) / W * W; }

// A row on its way through a walk: items in scratch memory, padded with zeros to whole vectors.
struct LaneRow {
  float* items;
  int64_t mass;
  float scale;
};

TK_INLINE void weigh(LaneRow* row, int64_t mass) {
  row->mass = mass;
  row->scale = scale_of(mass);
}

// Copies a row and weighs it; false where it is no distribution.
template <class T>
TK_INLINE bool read_row(const T* from, int64_t width, int64_t slack, LaneRow* row) {
  float* items = row->items;
  vi valid = set_int(-1);
  vul sums[2] = {};
  const auto add = [&](vf x, int64_t j) __attribute__((always_inline)) {
    valid &= (x >= 0.0f) & (x <= kMostItemMass);
    store(items + j, x);
    sums[0] += based_units(load_wide(items + j));
    sums[1] += based_units(load_wide(items + j + kHalf));
  };
  int64_t j = 0;
  for (; j + W <= width; j += W) add(load(from + j), j);
  if (j < width) add(load_n(from + j, static_cast<int>(width - j)), j);
  bool all = true;
  for (int i = 0; i < W; ++i) all &= valid[i] != 0;
  weigh(row, sum_lanes(sums[0] + sums[1], padded(width) / W * 2));
  return all && is_whole(row->mass, slack);
}

// next = max(p - q, 0), both scaled; false where nothing is left.
TK_INLINE bool subtract_row(const LaneRow& p, const LaneRow& q, int64_t width, LaneRow* next) {
  const double p_scale = static_cast<double>(p.scale);
  const double q_scale = static_cast<double>(q.scale);
  const float* p_items = p.items;
  const float* q_items = q.items;
  float* items = next->items;
  vul sums[2] = {};
  for (int64_t j = 0; j < width; j += W) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const int64_t at = j + h * kHalf;
      const vd left = load_wide(p_items + at) * p_scale - load_wide(q_items + at) * q_scale;
      const vg item = __builtin_convertvector(left > 0.0 ? left : vd{}, vg);
      *reinterpret_cast<vg_unaligned*>(items + at) = item;
      sums[h] += based_units(widen(item));
    }
  }
  const int64_t mass = sum_lanes(sums[0] + sums[1], padded(width) / W * 2);
  if (mass <= 0) return false;
  weigh(next, mass);
  return true;
}

// The units of `count` scaled items from p on, a multiple of W.
TK_INLINE int64_t scaled_mass(const float* p, double scale, int64_t count) {
  vul sums[2] = {};
  for (int64_t j = 0; j < count; j += W) {
    sums[0] += based_units(load_wide(p + j) * scale);
    sums[1] += based_units(load_wide(p + j + kHalf) * scale);
  }
  return sum_lanes(sums[0] + sums[1], count / W * 2);
}

// The item drawn by u: its block first, then itself.
TK_INLINE int64_t draw_item(const LaneRow& row, int64_t width, float u) {
  constexpr int64_t kBlock = 512;
  const double scale = static_cast<double>(row.scale);
  const int64_t end = padded(width);
  const Scratch<int64_t> blocks((end + kBlock - 1) / kBlock);
  int64_t mass = 0;
  for (int64_t j = 0; j < end; j += kBlock) {
    blocks[j / kBlock] = scaled_mass(row.items + j, scale, end - j < kBlock ? end - j : kBlock);
    mass += blocks[j / kBlock];
  }
  const int64_t drawn = drawn_mass(u, mass);
  int64_t running = 0;
  int64_t j = 0;
  for (; j < end; j += kBlock) {
    if (running + blocks[j / kBlock] > drawn) break;
    running += blocks[j / kBlock];
  }
  for (; j < width; ++j) {
    running += mass_units(scaled(row.items[j], row.scale));
    if (running > drawn) return j;
  }
  return -1;
}

// The units of all items of the entropy of a row, below zero.
TK_INLINE int64_t entropy_units(const LaneRow& row, int64_t width) {
  const float* items = row.items;
  const float scale = row.scale;
  vul sums = {};
  const int64_t end = padded(width);
  for (int64_t j = 0; j < end; j += kHalf) {
    sums += based_units(entropy_item<LaneNumbers>(load_wide(items + j), scale));
  }
  return sum_lanes(sums, end / kHalf);
}

}  // namespace
}  // namespace tk::tree
