// SPDX-License-Identifier: Apache-2.0
// Scores and entries of the map for some queries of one head, for the ops that show parts of it. Included by per-ISA
// files only.
#pragma once
#include "attention/pack.h"
#include "attention/softmax.h"
#include "core/head_row.h"
#include "core/scratch.h"

namespace tk::attention {
namespace {

// What a thread works in.
struct MapRoom {
  int64_t rows, keys, width, words;
  Scratch<float> queries, keys_packed, scores, bias;
  int64_t stride;  // of scores: rows do not all start in the same set of the cache

  MapRoom(int64_t rows_, int64_t keys_, int64_t width_, int64_t words_)
      : rows(rows_),
        keys(keys_),
        width(width_),
        words(words_),
        queries(rows * words),
        keys_packed(panel_floats(words, keys)),
        scores(rows * (keys + W)),
        bias(keys),
        stride(keys + W) {}
  float* row(int64_t r) const { return scores.data() + r * stride; }
};

template <class Args>
TK_INLINE const float* map_bias(const Args& a, int64_t b, int64_t h) {
  return a.key_bias.data ? a.key_bias.data + b * a.key_bias.batch_stride + h * a.key_bias.head_stride : nullptr;
}

// Scores in base 2 of the queries in the room against the keys of a tile; hidden pairs are not hidden yet.
template <class Kind, class T, class Args>
void map_scores(const Args& a, int64_t b, int64_t h, int64_t rows, const KeyTile& keys, const MapRoom& room) {
  const int64_t group = h / (a.shape.heads / a.shape.groups);
  pack_transposed<Kind>(PickedRows<T>{head_row<T>(a.k, b, group), a.k.row_stride, keys.index}, keys.count, room.width,
                        room.keys_packed.data());
  bias_lanes(map_bias(a, b, h), keys, room.bias.data());
  multiply<Kind>(rows, keys.lanes(), room.words, RowMajor{room.queries.data(), room.words},
                 Panels{room.keys_packed.data(), room.words},
                 ScoreOut{static_cast<float>(a.scale) * kLog2E, room.bias.data()}, room.scores.data(), room.stride);
}

// exp(score - lse); zero for what is hidden, whatever lse is.
TK_INLINE vf map_entry(vf score, vf lse2) { return select(score == -kInfinity, zero(), exp2(score - lse2)); }

}  // namespace
}  // namespace tk::attention
