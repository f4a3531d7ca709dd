// SPDX-License-Identifier: Apache-2.0
// Products of small matrices that stay in the caches, for the per-ISA files of this family only:
//
//   out(r, lane) = sum over words k of left(r, k) * panels(k, lane)
//
// The left side is read one word at a time and spread over the lanes: rows in memory (RowMajor) or columns
// (ColumnMajor, Floats only). The right side lies in panels [panel][word][kLanes] as pack.h makes them. `Out` says what
// becomes of the sums: Store, Add, or what a kernel brings along: out(float* to, int64_t lane, vf sum).
//
// One sum is one chain of multiply-adds in ascending k, whatever the tile.
#pragma once
#include "attention/policy.h"
#include "core/bf16_dot.h"

namespace tk::attention {
namespace {

// 24 sums, 4 vectors of the right side and a word of the left one fit 32 registers, 12 and 2 fit 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kGroup = 6;             // rows of a register block
constexpr int kLanes = kVectors * W;  // of a panel
constexpr int64_t kPanelWords = 128;  // of a panel in one pass of `accumulate`: 32 KiB where W is 16

TK_INLINE int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
TK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

struct RowMajor {
  const float* data;
  int64_t stride;
  TK_MEMBER float at(int64_t r, int64_t k) const { return data[r * stride + k]; }
  TK_MEMBER RowMajor from(int64_t r, int64_t k) const { return {data + r * stride + k, stride}; }
};

struct ColumnMajor {
  const float* data;
  int64_t stride;
  TK_MEMBER float at(int64_t r, int64_t k) const { return data[k * stride + r]; }
  TK_MEMBER ColumnMajor from(int64_t r, int64_t k) const { return {data + k * stride + r, stride}; }
};

struct Panels {
  const float* data;
  int64_t words;  // of a panel
  TK_MEMBER const float* panel(int64_t p) const { return data + p * words * kLanes; }
};

struct Store {
  TK_MEMBER void operator()(float* to, int64_t, vf sum) const { store(to, sum); }
};

struct Add {
  TK_MEMBER void operator()(float* to, int64_t, vf sum) const { store(to, load(to) + sum); }
};

template <class Kind, int R, int V, class Left, class Out>
void multiply_block(const Left& left, const float* panel, int64_t words, const Out& out, int64_t lane, float* to,
                    int64_t stride) {
  vf sum[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = zero();
  }
  for (int64_t k = 0; k < words; ++k) {
    vf right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = load(panel + k * kLanes + v * W);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const vf word = set(left.at(r, k));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = Kind::dot(word, right[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) out(to + r * stride + v * W, lane + v * W, sum[r][v]);
  }
}

template <class Kind, int V, int R, class Left, class Out>
TK_INLINE void multiply_group(int64_t rows, const Left& left, const float* panel, int64_t words, const Out& out,
                              int64_t lane, float* to, int64_t stride) {
  if (rows == R) return multiply_block<Kind, R, V>(left, panel, words, out, lane, to, stride);
  if constexpr (R > 1) multiply_group<Kind, V, R - 1>(rows, left, panel, words, out, lane, to, stride);
}

// All rows against V vectors of a panel. Groups are of about one height, so that none is a thin rest.
template <class Kind, int V, class Left, class Out>
void multiply_panel(int64_t rows, const Left& left, const float* panel, int64_t words, const Out& out, int64_t lane,
                    float* to, int64_t stride) {
  const int64_t groups = (rows + kGroup - 1) / kGroup;
  const int64_t height = groups > 0 ? rows / groups : 0;
  const int64_t taller = rows - groups * height;  // groups with a row more
  for (int64_t g = 0, r = 0; g < groups; ++g) {
    const int64_t count = height + (g < taller ? 1 : 0);
    multiply_group<Kind, V, kGroup>(count, left.from(r, 0), panel, words, out, lane, to + r * stride, stride);
    r += count;
  }
}

template <class Kind, int V = kVectors, class Left, class Out>
TK_INLINE void multiply_vectors(int64_t vectors, int64_t rows, const Left& left, const float* panel, int64_t words,
                                const Out& out, int64_t lane, float* to, int64_t stride) {
  if (vectors >= V) return multiply_panel<Kind, V>(rows, left, panel, words, out, lane, to, stride);
  if constexpr (V > 1) multiply_vectors<Kind, V - 1>(vectors, rows, left, panel, words, out, lane, to, stride);
}

// to[r][lane] for `rows` rows and `lanes` lanes, a multiple of W; `words` of each panel are met.
template <class Kind, class Left, class Out>
void multiply(int64_t rows, int64_t lanes, int64_t words, const Left& left, const Panels& panels, const Out& out,
              float* to, int64_t stride) {
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    multiply_vectors<Kind>((lanes - lane) / W, rows, left, panels.panel(lane / kLanes), words, out, lane, to + lane,
                           stride);
  }
}

// to[r][lane] += the product, in equal passes over so few words that a panel's share of a pass stays in L1.
template <class Kind, class Left>
void accumulate(int64_t rows, int64_t lanes, int64_t words, const Left& left, const Panels& panels, float* to,
                int64_t stride) {
  const int64_t passes = (words + kPanelWords - 1) / kPanelWords;
  for (int64_t pass = 0, k = 0; pass < passes; ++pass) {
    const int64_t end = words * (pass + 1) / passes;
    const Panels part{panels.data + k * kLanes, panels.words};
    multiply<Kind>(rows, lanes, end - k, left.from(0, k), part, Add{}, to, stride);
    k = end;
  }
}

}  // namespace
}  // namespace tk::attention
