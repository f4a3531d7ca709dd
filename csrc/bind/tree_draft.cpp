// SPDX-License-Identifier: Apache-2.0
// Family tree, how draft tokens are drawn and how their tree grows: checked arguments -> launcher.
#include <cfloat>
#include <limits>
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "tree/expand_greedy.h"
#include "tree/gumbel_argmax.h"
#include "tree/masked_transfer.h"
#include "tree/sample_without_replacement.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostDrawItems = INT32_MAX;
constexpr double kColdest = 1e-6;  // of temperatures above 0
constexpr double kHottest = 1e6;

void check_draw_rows(const Call& call, const char* name) {
  const int64_t rows = call.dim('N');
  const int64_t width = call.dim('V');
  call.check_extents(name, {rows, width});
  if (rows > kMostDrawItems || width > kMostDrawItems) {
    call.fail_value(name, "of less than 2^31 rows of less than 2^31 items",
                    std::to_string(rows) + " rows of " + std::to_string(width));
  }
}

py::object sample_without_replacement(py::handle q_, py::handle k_, py::handle u_, py::handle index_,
                                      py::handle prob_) {
  Call call("sample_without_replacement");
  const Tensor q = call.in("q", q_, kFloat, "N V");
  const int64_t k = call.set_count("k", 'K', k_);
  const Tensor u = call.in("u", u_, kF32, "N V");
  check_draw_rows(call, "q");
  if (k > call.dim('V')) call.fail_value("k", "in [0, " + std::to_string(call.dim('V')) + "]", std::to_string(k));
  const Tensor index = call.out("index", index_, DType::i64, "N K");
  const Tensor prob = call.out("prob", prob_, DType::f32, "N K");
  TK_RUN(call, tree, sample_without_replacement,
         tree::SampleWithoutReplacementArgs{q.data, u.as<float>(), index.as<int64_t>(), prob.as<float>(), q.dtype,
                                            call.dim('N'), call.dim('V'), k, q.stride(0), u.stride(0)});
  return call.results();
}

py::object gumbel_argmax(py::handle logits_, py::handle u_, py::handle temperature_, py::handle out_) {
  Call call("gumbel_argmax");
  const Tensor logits = call.in("logits", logits_, kFloat, "N V");
  const Tensor u = call.in("u", u_, kF32, "N V");
  check_draw_rows(call, "logits");
  if (call.dim('V') == 0 && call.dim('N') > 0) call.fail_value("logits", "rows of at least one item", "none");
  double temperature = call.real("temperature", temperature_, 0.0, kHottest);
  if (temperature != 0.0) temperature = call.real("temperature", temperature_, kColdest, kHottest);
  const Tensor index = call.out("out", out_, DType::i64, "N");
  TK_RUN(call, tree, gumbel_argmax,
         tree::GumbelArgmaxArgs{logits.data, u.as<float>(), index.as<int64_t>(), logits.dtype, call.dim('N'),
                                call.dim('V'), logits.stride(0), u.stride(0),
                                temperature == 0.0 ? 0.0f : static_cast<float>(1.0 / temperature)});
  return call.results();
}

py::object masked_transfer(py::handle confidence_, py::handle mask_, py::handle count_, py::handle threshold_,
                           py::handle out_) {
  Call call("masked_transfer");
  const Tensor confidence = call.in("confidence", confidence_, kFloat, "B L");
  const Tensor mask = call.dense("mask", mask_, kMask, "B L");
  const Tensor count = call.optional_dense("count", count_, kIndex, "B");
  const int64_t batch = call.dim('B');
  const int64_t length = call.dim('L');
  call.check_extents("confidence", {batch, length});
  if (batch > kMostDrawItems || length > kMostDrawItems) {
    call.fail_value("confidence", "of less than 2^31 rows of less than 2^31 positions",
                    std::to_string(batch) + " rows of " + std::to_string(length));
  }
  if (!count && threshold_.is_none()) call.fail_value("count", "given where threshold is not", "neither");
  if (count) call.check_index("count", count, INT64_MAX);
  uint32_t least_key = 0;
  if (!threshold_.is_none()) {
    constexpr double kEnd = std::numeric_limits<double>::infinity();
    least_key = score_key(static_cast<float>(call.real("threshold", threshold_, -kEnd, kEnd)));
  }
  const Tensor out = call.out("out", out_, DType::boolean, "B L");
  const selection::ScoreRows from{confidence.data, mask.as<uint8_t>(),          confidence.dtype, batch, length,
                                  {1, batch},      {0, 0, confidence.stride(0)}};
  TK_RUN(call, tree, masked_transfer,
         tree::MaskedTransferArgs{from, count.as<int64_t>(), out.as<uint8_t>(), least_key});
  return call.results();
}

bool are_chances(const float* p, int64_t n) {
  int wrong = 0;
  for (int64_t i = 0; i < n; ++i) wrong |= !(p[i] >= 0.0f) | !(p[i] <= 1.0f);
  return wrong == 0;
}

// Rows that are known hold probabilities.
void check_chances(const Call& call, const Tensor& draw_p, const Tensor& known) {
  if (!Call::on_host()) return;
  const int64_t draws = draw_p.size(2);
  for (int64_t node = 0; node < known.size(0) * known.size(1); ++node) {
    const float* p = draw_p.as<float>() + node * draws;
    if (!known.as<uint8_t>()[node] || are_chances(p, draws)) continue;
    int64_t r = 0;
    while (p[r] >= 0.0f && p[r] <= 1.0f) ++r;
    call.fail_value("draw_p", "in [0, 1] where known",
                    std::to_string(p[r]) + " at flat position " + std::to_string(node * draws + r));
  }
}

// Fills budget, threshold and depth of the arguments.
void read_limits(const Call& call, py::handle budget, py::handle threshold, py::handle max_depth,
                 tree::ExpandGreedyArgs* a) {
  if (budget.is_none() == threshold.is_none()) {
    call.fail_value("budget", "given or threshold, and not both", budget.is_none() ? "neither" : "both");
  }
  if (!threshold.is_none()) a->threshold = static_cast<float>(call.real("threshold", threshold, 0.0, FLT_MAX));
  if (!max_depth.is_none()) a->max_depth = call.integer("max_depth", max_depth, 0);
  if (budget.is_none()) return;
  a->budget = call.integer("budget", budget, 0);
  if (a->budget >= a->nodes) {
    call.fail_value("budget", "less than the " + std::to_string(a->nodes) + " nodes of draw_p",
                    std::to_string(a->budget));
  }
}

py::object expand_greedy(py::handle draw_p_, py::handle known_, py::handle budget_, py::handle threshold_,
                         py::handle max_depth_, py::handle parents_, py::handle rank_, py::handle value_,
                         py::handle count_, py::handle wanted_) {
  Call call("expand_greedy");
  const Tensor draw_p = call.dense("draw_p", draw_p_, kF32, "B M K");
  const Tensor known = call.dense("known", known_, kMask, "B M");
  const int64_t nodes = call.dim('M');
  call.check_extents("draw_p", {call.dim('B'), nodes, call.dim('K')});
  if (nodes < 1 || nodes > tree::kMostExpanded) {
    call.fail_value("draw_p", "of 1 to " + std::to_string(tree::kMostExpanded) + " nodes", std::to_string(nodes));
  }
  if (call.dim('B') > kMostDrawItems || call.dim('K') > kMostDrawItems) {
    call.fail_value("draw_p", "of less than 2^31 trees and draws",
                    std::to_string(call.dim('B')) + " trees of " + std::to_string(call.dim('K')) + " draws");
  }
  tree::ExpandGreedyArgs a{};
  a.batch = call.dim('B');
  a.nodes = a.max_depth = nodes;
  a.draws = call.dim('K');
  a.budget = -1;
  read_limits(call, budget_, threshold_, max_depth_, &a);
  check_chances(call, draw_p, known);
  const Tensor parents = call.out("parents", parents_, DType::i64, "B M");
  const Tensor rank = call.out("rank", rank_, DType::i64, "B M");
  const Tensor value = call.out("value", value_, DType::f32, "B M");
  const Tensor count = call.out("count", count_, DType::i64, "B");
  const Tensor wanted = call.out("wanted", wanted_, DType::boolean, "B M");
  a.draw_p = draw_p.as<float>();
  a.known = known.as<uint8_t>();
  a.parents = parents.as<int64_t>();
  a.rank = rank.as<int64_t>();
  a.value = value.as<float>();
  a.count = count.as<int64_t>();
  a.wanted = wanted.as<uint8_t>();
  TK_RUN(call, tree, expand_greedy, a);
  return call.results();
}

}  // namespace

void bind_tree_draft(py::module_& m) {
  m.def("expand_greedy", &expand_greedy);
  m.def("gumbel_argmax", &gumbel_argmax);
  m.def("masked_transfer", &masked_transfer);
  m.def("sample_without_replacement", &sample_without_replacement);
}

}  // namespace tk::bind
