// SPDX-License-Identifier: Apache-2.0
// The metrics of quantize/code_search.h as rules of core/best_column.h. Squared distances fall as x.c - |c|^2 / 2
// rises, so the sum of a pair starts at -|c|^2 / 2, and |x|^2 comes last; a cosine is scaled by 1 / |x| last.
//
//   vf row_term<Kind>(const Panels&, const RowAnswers&): what `reported` needs of a row; not finite where the row is
//   not vf reported(vf score, vf term)
// Included by per-ISA files only.
#pragma once
#include "core/small_columns.h"
#include "quantize/code_search.h"

namespace tk::quantize {
namespace {

constexpr float kNan = __builtin_nanf("");

TK_INLINE vi is_finite(vf x) { return abs(x) < __builtin_inff(); }

// Lanes past the last code, and codes that are not usable, are never chosen.
TK_INLINE void store_bias(const Panels& p, const PackedColumns& columns, vi usable, vf bias) {
  const vi present = iota(0) < static_cast<int32_t>(columns.present);
  store(p.bias + columns.first, select(usable & present, bias, set(kNever)));
}

struct DistanceRule {
  static constexpr bool kCentreRows = true;  // see core/pair_filter.h

  template <class Kind>
  static constexpr bool kScaled = false;

  template <class Kind>
  void finish_columns(const Panels& p, const PackedColumns& columns) const {
    store_bias(p, columns, is_finite(columns.squares), columns.squares * -0.5f);
  }
  template <class Kind>
  TK_INLINE vf row_term(const Panels&, const RowAnswers& r) {
    return r.squares;
  }
  TK_INLINE vf reported(vf score, vf term) { return max(term - 2.0f * score, zero()); }
};

struct ProductRule {
  static constexpr bool kCentreRows = true;

  template <class Kind>
  static constexpr bool kScaled = false;

  template <class Kind>
  void finish_columns(const Panels& p, const PackedColumns& columns) const {
    store_bias(p, columns, is_finite(columns.squares), zero());
  }
  template <class Kind>
  TK_INLINE vf row_term(const Panels&, const RowAnswers& r) {
    return r.squares;
  }
  TK_INLINE vf reported(vf score, vf) { return score; }
};

struct CosineRule {
  static constexpr bool kCentreRows = false;

  template <class Kind>
  static constexpr bool kScaled = !kUnitColumns<Kind>;

  template <class Kind>
  void finish_columns(const Panels& p, const PackedColumns& columns) const {
    make_unit<Kind>(p, columns);
    store_bias(p, columns, set_int(-1), zero());
  }
  template <class Kind>
  TK_INLINE vf row_term(const Panels& p, const RowAnswers& r) {
    return inverse_norm<Kind>(r, p.words);
  }
  TK_INLINE vf reported(vf score, vf term) { return score * term; }
};

inline ColumnSearch columns_of(const CodeSearch& s) {
  return {s.x,     s.codes,         s.books,        s.rows,          s.codes_count,
          s.width, s.x_book_stride, s.x_row_stride, s.c_book_stride, s.c_row_stride};
}

// Calls run.template operator()<Kind, T>(rule) for the dtype and metric of a search.
template <class Kind, class T, class Run>
void with_rule(Metric metric, const Run& run) {
  if (metric == Metric::cosine) return run.template operator()<Kind, T>(CosineRule{});
  if (metric == Metric::dot) return run.template operator()<Kind, T>(ProductRule{});
  run.template operator()<Kind, T>(DistanceRule{});
}

// Short vectors are floats whatever they were: core/small_columns.h has integers, faster than pairs.
template <class Run>
void with_kind_and_rule(const CodeSearch& s, const Run& run) {
  const bool pairs = s.dtype == DType::bf16 && multiplies_pairs() && s.width > kSmallWidth;
  if (pairs) return with_rule<Bf16Pairs, bf16_t>(s.metric, run);
  TK_FLOAT_SWITCH(s.dtype, T, with_rule<Floats, T>(s.metric, run))
}

}  // namespace
}  // namespace tk::quantize
