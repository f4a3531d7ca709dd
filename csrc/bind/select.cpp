// SPDX-License-Identifier: Apache-2.0
// Family select: checked arguments -> launcher, one function per op.
#include <cmath>
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "select/topk.h"
#include "select/topk_mask.h"
#include "select/topp_mask.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostItems = INT32_MAX;
constexpr int64_t kMostRows = INT32_MAX;
constexpr int kMostRank = 4;
// Shapes by rank: of the rows, and of k items of each.
constexpr const char* kRowShape[] = {"", "N", "A N", "A B N", "A B C N"};
constexpr const char* kChosenShape[] = {"", "K", "A K", "A B K", "A B C K"};

// Up to three outer extents, right-aligned.
selection::ScoreRows score_rows(Call& call, const char* name, const Tensor& score, const Tensor& mask) {
  int64_t extent[3] = {1, 1, 1};
  selection::ScoreRows s{score.data, mask.as<uint8_t>(), score.dtype, 1, call.dim('N'), {1, 1}, {0, 0, 0}};
  for (int i = 0; i < score.ndim - 1; ++i) {
    const int at = kMostRank - score.ndim + i;
    extent[at] = score.size(i);
    s.stride[at] = score.stride(i);
  }
  call.check_extents(name, {extent[0], extent[1], extent[2], s.width});
  s.rows = extent[0] * extent[1] * extent[2];
  s.extent[0] = extent[1];
  s.extent[1] = extent[2];
  if (s.width > kMostItems || s.rows > kMostRows) {
    call.fail_value(name, "of less than 2^31 rows of less than 2^31 items",
                    std::to_string(s.rows) + " rows of " + std::to_string(s.width));
  }
  return s;
}

int64_t chosen_count(Call& call, py::handle k_) {
  const int64_t k = call.set_count("k", 'K', k_);
  const int64_t n = call.dim('N');
  if (k > n) call.fail_value("k", "in [0, " + std::to_string(n) + "]", std::to_string(k));
  return k;
}

py::object topk(py::handle score_, py::handle k_, bool sorted, py::handle mask_, py::handle value_, py::handle index_) {
  Call call("topk");
  const Tensor score = call.in("score", score_, kFloat, "N|A N|A B N|A B C N");
  const Tensor mask = call.optional_dense("mask", mask_, kMask, kRowShape[score.ndim]);
  const selection::ScoreRows from = score_rows(call, "score", score, mask);
  const int64_t k = chosen_count(call, k_);
  const Tensor value = call.out("value", value_, score.dtype, kChosenShape[score.ndim]);
  const Tensor index = call.out("index", index_, DType::i64, kChosenShape[score.ndim]);
  TK_RUN(call, selection, topk, selection::TopkArgs{from, value.data, index.as<int64_t>(), k, sorted});
  return call.results();
}

py::object topk_mask(py::handle score_, py::handle k_, py::handle mask_, py::handle out_) {
  Call call("topk_mask");
  const Tensor score = call.in("score", score_, kFloat, "N|A N|A B N|A B C N");
  const Tensor mask = call.optional_dense("mask", mask_, kMask, kRowShape[score.ndim]);
  const selection::ScoreRows from = score_rows(call, "score", score, mask);
  const int64_t k = chosen_count(call, k_);
  const Tensor out = call.out("out", out_, DType::boolean, kRowShape[score.ndim]);
  TK_RUN(call, selection, topk_mask, selection::TopkMaskArgs{from, out.as<uint8_t>(), k});
  return call.results();
}

// An item is kept while the mass before it is below p.
int64_t mass_limit(double p) {
  return p < 1.0 ? static_cast<int64_t>(std::ceil(p * selection::kMassUnits)) - 1 : selection::kNoLimit;
}

py::object topp_mask(py::handle prob_, py::handle p_, py::handle min_keep_, py::handle weight_, py::handle out_) {
  Call call("topp_mask");
  const Tensor prob = call.in("prob", prob_, kFloat, "N|A N|A B N|A B C N");
  const Tensor weight = call.optional_dense("weight", weight_, kF32, kRowShape[prob.ndim]);
  const selection::ScoreRows from = score_rows(call, "prob", prob, Tensor{});
  if (from.width > selection::kMostMassItems) {
    call.fail_value("prob", "of at most 2^20 items a row", std::to_string(from.width));
  }
  const double p = call.real("p", p_, 0.0, 1.0);
  const int64_t least = call.integer("min_keep", min_keep_, 0);
  if (least > 1 && least > from.width) {
    call.fail_value("min_keep", "at most " + std::to_string(from.width), std::to_string(least));
  }
  const Tensor out = call.out("out", out_, DType::boolean, kRowShape[prob.ndim]);
  TK_RUN(call, selection, topp_mask,
         selection::ToppMaskArgs{from, weight.as<float>(), out.as<uint8_t>(), mass_limit(p),
                                 least < from.width ? least : from.width});
  return call.results();
}

}  // namespace

void bind_select(py::module_& m) {
  m.def("topk", &topk);
  m.def("topk_mask", &topk_mask);
  m.def("topp_mask", &topp_mask);
  bind_select_power(m);
  bind_select_points(m);
  bind_select_spatten(m);
  bind_select_gate(m);
}

}  // namespace tk::bind
