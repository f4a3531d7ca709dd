// SPDX-License-Identifier: Apache-2.0
// Family select, the ops of SpAtten: checked arguments -> launcher, one function per op.
#include <cfloat>
#include <cmath>
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/head_rows.h"
#include "select/accumulate_head_scores.h"
#include "select/accumulate_importance.h"
#include "select/join_bits.h"
#include "select/local_value_attention.h"
#include "select/progressive_attention.h"
#include "select/split_bits.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostChannels = 256;
constexpr int64_t kMostProbs = INT32_MAX;
constexpr int64_t kMostProbRows = INT32_MAX;
// Shapes by rank: of rows of planes, of their low bytes, of their scales.
constexpr const char* kPlaneShape[] = {"", "", "N D", "B N D", "B H N D"};
constexpr const char* kLowShape[] = {"", "", "N P", "B N P", "B H N P"};
constexpr const char* kScaleShape[] = {"", "", "N", "B N", "B H N"};

// Rows of (B, H, N, D), (B, N, D) or (N, D); what is missing has an extent of one.
HeadRows plane_rows(const Tensor& x) {
  if (!x) return {};
  const int rank = x.ndim;
  return {x.data, rank > 2 ? x.stride(0) : 0, rank > 3 ? x.stride(1) : 0, x.stride(rank - 2)};
}

int64_t dim_or_one(const Call& call, char letter) { return call.dim(letter) < 0 ? 1 : call.dim(letter); }

void check_prob_rows(const Call& call, const char* name, int64_t rows, int64_t width) {
  if (rows <= kMostProbRows && width <= kMostProbs) return;
  call.fail_value(name, "of less than 2^31 rows of less than 2^31 items",
                  std::to_string(rows) + " rows of " + std::to_string(width));
}

// Query heads are shared out evenly among those of `name`.
void check_shared_heads(const Call& call, const char* name) {
  const int64_t heads = call.dim('H');
  const int64_t groups = call.dim('G');
  if (groups > 0 ? heads % groups == 0 : heads == 0) return;
  call.fail_value(name, "a number of heads that divides " + std::to_string(heads), std::to_string(groups));
}

int bit_count(const Call& call, const char* name, py::handle object, int64_t least, int64_t most) {
  const int64_t value = call.integer(name, object, least);
  if (value > most) {
    call.fail_value(name, "in [" + std::to_string(least) + ", " + std::to_string(most) + "]", std::to_string(value));
  }
  return static_cast<int>(value);
}

selection::TokenScales token_scales(const Tensor& scale) {
  return scale ? selection::TokenScales{scale.as<float>(), scale.stride(0), scale.stride(1)} : selection::TokenScales{};
}

py::object accumulate_importance(py::handle prob_, py::handle score_, py::handle live_, py::handle out_) {
  Call call("accumulate_importance");
  const Tensor prob = call.in("prob", prob_, kFloat, "B H Q K");
  const Tensor score = call.optional_dense("score", score_, kF32, "B K");
  const Tensor live = call.optional_dense("query_valid", live_, kMask, "B Q");
  const Tensor out = call.out("out", out_, DType::f32, "B K");
  TK_RUN(call, selection, accumulate_importance,
         selection::AccumulateImportanceArgs{head_rows(prob), score.as<float>(), live.as<uint8_t>(), out.as<float>(),
                                             call.dim('B'), call.dim('H'), call.dim('Q'), call.dim('K'), prob.dtype});
  return call.results();
}

py::object accumulate_head_scores(py::handle e_, py::handle score_, py::handle live_, py::handle out_) {
  Call call("accumulate_head_scores");
  const Tensor e = call.in("e", e_, kFloat, "B H Q D");
  const Tensor score = call.optional_dense("score", score_, kF32, "B H");
  const Tensor live = call.optional_dense("query_valid", live_, kMask, "B Q");
  const Tensor out = call.out("out", out_, DType::f32, "B H");
  TK_RUN(call, selection, accumulate_head_scores,
         selection::AccumulateHeadScoresArgs{head_rows(e), score.as<float>(), live.as<uint8_t>(), out.as<float>(),
                                             call.dim('B'), call.dim('H'), call.dim('Q'), call.dim('D'), e.dtype});
  return call.results();
}

py::object local_value_attention(py::handle prob_, py::handle v_, py::handle keep_, py::handle out_) {
  Call call("local_value_attention");
  const Tensor prob = call.in("prob", prob_, kFloat, "B H Q K");
  const Tensor v = call.in("v", v_, dtype_bit(prob.dtype), "B G K D");
  check_shared_heads(call, "v");
  const int64_t keys = call.dim('K');
  const int64_t keep = call.integer("keep", keep_, 0);
  if (keep > keys) call.fail_value("keep", "in [0, " + std::to_string(keys) + "]", std::to_string(keep));
  call.check_extents("prob", {call.dim('B'), call.dim('H'), call.dim('Q'), keys});
  check_prob_rows(call, "prob", call.dim('B') * call.dim('H') * call.dim('Q'), keys);
  const Tensor out = call.out("out", out_, prob.dtype, "B H Q D");
  TK_RUN(call, selection, local_value_attention,
         selection::LocalValueAttentionArgs{head_rows(prob), head_rows(v), out.data, call.dim('B'), call.dim('H'),
                                            call.dim('G'), call.dim('Q'), keys, call.dim('D'), keep, prob.dtype});
  return call.results();
}

py::object split_bits(py::handle x_, py::handle msb_, py::handle lsb_) {
  Call call("split_bits");
  const Tensor x = call.in("x", x_, kFloat, "B H N D|B N D|N D");
  const int msb = bit_count(call, "msb", msb_, 2, 8);
  const int lsb = bit_count(call, "lsb", lsb_, 0, 4);
  call.set('P', selection::low_bytes(call.dim('D'), lsb));
  const Tensor high = call.out("high", py::none(), DType::i8, kPlaneShape[x.ndim]);
  const Tensor low = call.out("low", py::none(), DType::u8, kLowShape[x.ndim]);
  const Tensor scale = call.out("scale", py::none(), DType::f32, kScaleShape[x.ndim]);
  TK_RUN(call, selection, split_bits,
         selection::SplitBitsArgs{plane_rows(x), high.as<int8_t>(), low.as<uint8_t>(), scale.as<float>(),
                                  dim_or_one(call, 'B'), dim_or_one(call, 'H'), call.dim('N'), call.dim('D'),
                                  selection::PlaneBits{msb, lsb}, x.dtype});
  return call.results();
}

py::object join_bits(py::handle high_, py::handle low_, py::handle scale_, py::handle lsb_) {
  Call call("join_bits");
  const Tensor high = call.in("high", high_, kInt8, "B H N D|B N D|N D");
  const int lsb = bit_count(call, "lsb", lsb_, 0, 4);
  call.set('P', selection::low_bytes(call.dim('D'), lsb));
  const Tensor low = call.optional("low", low_, dtype_bit(DType::u8), kLowShape[high.ndim]);
  const Tensor scale = call.optional_dense("scale", scale_, kF32, kScaleShape[high.ndim]);
  const Tensor out = call.out("out", py::none(), DType::f32, kPlaneShape[high.ndim]);
  TK_RUN(call, selection, join_bits,
         selection::JoinBitsArgs{plane_rows(high), lsb > 0 ? plane_rows(low) : HeadRows{}, scale.as<float>(),
                                 out.as<float>(), dim_or_one(call, 'B'), dim_or_one(call, 'H'), call.dim('N'),
                                 call.dim('D'), lsb});
  return call.results();
}

double scale_or_default(const Call& call, py::handle scale, int64_t width) {
  if (scale.is_none()) return 1.0 / std::sqrt(static_cast<double>(width));
  return call.real("scale", scale, -static_cast<double>(FLT_MAX), static_cast<double>(FLT_MAX));
}

py::object progressive_attention(py::handle q_, py::handle high_, py::handle low_, py::handle scale_k_, py::handle v_,
                                 py::handle threshold_, py::handle scale_v_, py::handle lsb_, py::handle scale_,
                                 py::handle valid_, bool causal) {
  Call call("progressive_attention");
  const Tensor q = call.in("q", q_, kFloat, "B H Q D");
  const int64_t width = call.dim('D');
  if (width < 1 || width > kMostChannels) call.fail_value("q", "1 to 256 channels wide", std::to_string(width));
  const Tensor high = call.in("high_k", high_, kInt8, "B G K D");
  check_shared_heads(call, "high_k");
  const int lsb = bit_count(call, "lsb", lsb_, 0, 4);
  call.set('P', selection::low_bytes(width, lsb));
  const Tensor low = call.in("low_k", low_, dtype_bit(DType::u8), "B G K P");
  const Tensor scale_k = call.in("scale_k", scale_k_, kF32, "B G K");
  const Tensor v = call.in("v", v_, dtype_bit(q.dtype) | kInt8, "B G K D");
  const Tensor scale_v = call.optional("scale_v", scale_v_, kF32, "B G K");
  if (scale_v.present != (v.dtype == DType::i8)) {
    call.fail_value("scale_v", "given exactly where v is int8", scale_v ? "one for a float v" : "none");
  }
  const Tensor valid = call.optional_dense("key_valid", valid_, kMask, "B K");
  const double threshold = call.real("threshold", threshold_, 0.0, static_cast<double>(FLT_MAX));
  const double scale = scale_or_default(call, scale_, width);
  call.check_extents("q", {call.dim('B'), call.dim('H'), call.dim('Q'), call.dim('K')});
  check_prob_rows(call, "q", call.dim('B') * call.dim('H') * call.dim('Q'), call.dim('K'));
  const Tensor out = call.out("out", py::none(), q.dtype, "B H Q D");
  const Tensor fetched = call.out("refetched", py::none(), DType::boolean, "B H Q");
  TK_RUN(call, selection, progressive_attention,
         selection::ProgressiveAttentionArgs{head_rows(q),
                                             head_rows(high),
                                             head_rows(low),
                                             head_rows(v),
                                             token_scales(scale_k),
                                             token_scales(scale_v),
                                             valid.as<uint8_t>(),
                                             out.data,
                                             fetched.as<uint8_t>(),
                                             call.dim('B'),
                                             call.dim('H'),
                                             call.dim('G'),
                                             call.dim('Q'),
                                             call.dim('K'),
                                             width,
                                             lsb,
                                             causal,
                                             q.dtype,
                                             v.dtype,
                                             static_cast<float>(threshold),
                                             static_cast<float>(scale)});
  return call.results();
}

}  // namespace

void bind_select_spatten(py::module_& m) {
  m.def("accumulate_importance", &accumulate_importance);
  m.def("accumulate_head_scores", &accumulate_head_scores);
  m.def("local_value_attention", &local_value_attention);
  m.def("split_bits", &split_bits);
  m.def("join_bits", &join_bits);
  m.def("progressive_attention", &progressive_attention);
}

}  // namespace tk::bind
