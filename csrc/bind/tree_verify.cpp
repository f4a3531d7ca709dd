// SPDX-License-Identifier: Apache-2.0
// Family tree, which draft tokens the target keeps: checked arguments -> launcher.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/tree_parents.h"
#include "tree/residual_sample.h"
#include "tree/verify_greedy.h"
#include "tree/verify_stochastic.h"

namespace tk::bind {
namespace {

py::object verify_greedy(py::handle tokens_, py::handle target_, py::handle parents_, py::handle path_,
                         py::handle accepted_, py::handle bonus_) {
  Call call("verify_greedy");
  const Tensor tokens = call.dense("tokens", tokens_, kIndex, "T|B T");
  const bool batched = tokens.ndim == 2;
  const Tensor target = call.dense("target", target_, kIndex, batched ? "B T" : "T");
  const Tensor parents = tree_parents(call, parents_, batched ? "T|B T" : "T");
  const Tensor path = call.out("path", path_, DType::i64, batched ? "B T" : "T");
  const Tensor accepted = call.out("accepted", accepted_, DType::i64, batched ? "B" : "");
  const Tensor bonus = call.out("bonus", bonus_, DType::i64, batched ? "B" : "");
  TK_RUN(
      call, tree, verify_greedy,
      tree::VerifyGreedyArgs{tokens.as<int64_t>(), target.as<int64_t>(), parents_of(parents), path.as<int64_t>(),
                             accepted.as<int64_t>(), bonus.as<int64_t>(), batched ? call.dim('B') : 1, call.dim('T')});
  return call.results();
}

constexpr double kMostAlpha = 1e6;

constexpr int64_t kMostWalks = INT32_MAX;  // one block each

void check_mass_rows(const Call& call, const char* name, int64_t walks) {
  const int64_t width = call.dim('V');
  if (width < 1 || width > tree::kMostItems) {
    call.fail_value(name, "rows of 1 to " + std::to_string(tree::kMostItems) + " items", std::to_string(width));
  }
  if (walks > kMostWalks) call.fail_value(name, "of less than 2^31 rows or sequences", std::to_string(walks));
  call.check_extents(name, {walks, width, 3});
}

void check_coins(const Call& call, const char* name, const Tensor& coins) {
  if (!Call::on_host()) return;
  int64_t count = 0;
  count_elements(coins, &count);
  for (int64_t i = 0; i < count; ++i) {
    const float coin = coins.as<float>()[i];
    if (coin >= 0.0f && coin < 1.0f) continue;
    std::string got = std::to_string(coin);  // GCC 12 warns of a sum of strings
    got += " at flat position ";
    got += std::to_string(i);
    call.fail_value(name, "in [0, 1)", got);
  }
}

// Says what is wrong with a row that a kernel found to be no distribution.
template <class T>
[[noreturn]] void fail_row(const Call& call, const char* name, const T* row, DType dtype, const std::string& where) {
  const int64_t width = call.dim('V');
  double sum = 0;
  std::string got;
  for (int64_t j = 0; j < width && got.empty(); ++j) {
    const float item = to_float(row[j]);
    sum += item;
    if (!tree::is_probability(item)) got = std::string(py::str("{} at position {}").format(item, j));
  }
  if (got.empty()) got = std::string(py::str("a sum of {:.6g}").format(sum));
  const double tolerance = tree::mass_tolerance(dtype, width);
  call.fail_value(name, std::string(py::str("of rows of probabilities that sum to 1 within {:.2g}").format(tolerance)),
                  got + " in row " + where);
}

py::object residual_sample(py::handle p_, py::handle q_, py::handle u_) {
  Call call("residual_sample");
  const Tensor p = call.in("p", p_, kFloat, "N V");
  const Tensor q = call.in("q", q_, dtype_bit(p.dtype), "N V");
  const Tensor u = call.dense("u", u_, kF32, "N");
  check_mass_rows(call, "p", call.dim('N'));
  check_coins(call, "u", u);
  const Tensor index = call.out("index", py::none(), DType::i64, "N");
  TK_RUN(call, tree, residual_sample,
         tree::ResidualSampleArgs{p.data, q.data, u.as<float>(), index.as<int64_t>(), p.dtype, call.dim('N'),
                                  call.dim('V'), p.stride(0), q.stride(0), tree::mass_slack(p.dtype, call.dim('V'))});
  for (int64_t n = 0; Call::on_host() && n < call.dim('N'); ++n) {
    const int64_t found = index.as<int64_t>()[n];
    if (found >= 0) continue;
    const bool target = found == tree::kNoTarget;
    const Tensor& from = target ? p : q;
    TK_FLOAT_SWITCH(p.dtype, T,
                    fail_row(call, target ? "p" : "q", from.as<T>() + n * from.stride(0), p.dtype, std::to_string(n)))
  }
  return call.results();
}

tree::Rule rule_of(const Call& call, std::string_view rule) {
  if (rule == "sequoia") return tree::Rule::sequoia;
  if (rule == "specinfer") return tree::Rule::specinfer;
  if (rule == "eagle") return tree::Rule::eagle;
  if (rule == "target_only") return tree::Rule::target_only;
  if (rule == "typical") return tree::Rule::typical;
  call.fail_value("rule", "'sequoia', 'specinfer', 'eagle', 'target_only' or 'typical'",
                  std::string("'").append(rule).append("'"));
}

int64_t parent_of(const tree::VerifyStochasticArgs& a, int64_t b, int64_t node) {
  return a.parents.nodes[b * a.parents.batch_stride + node];
}

// Tokens are words of the vocabulary, or -1 where there is none; that of node 0 and of padding is not read.
void check_words(const Call& call, const tree::VerifyStochasticArgs& a) {
  for (int64_t i = 0; Call::on_host() && i < a.batch * a.nodes; ++i) {
    const bool read = i % a.nodes > 0 && parent_of(a, i / a.nodes, i % a.nodes) >= 0;
    if (!read || (a.tokens[i] >= -1 && a.tokens[i] < a.width)) continue;
    std::string got = std::to_string(a.tokens[i]);
    got += " at flat position ";
    got += std::to_string(i);
    call.fail_value("tokens", "in [0, " + std::to_string(a.width) + "), or -1 for none", got);
  }
}

void check_draft_rows(const Call& call, const tree::VerifyStochasticArgs& a) {
  if (a.draft_rows > a.nodes) {
    call.fail_value("draft_p", "of at most " + std::to_string(a.nodes) + " rows, one a node",
                    std::to_string(a.draft_rows));
  }
  for (int64_t i = 0; Call::on_host() && i < a.batch * a.nodes; ++i) {
    const int64_t parent = parent_of(a, i / a.nodes, i % a.nodes);
    if (parent < a.draft_rows) continue;
    call.fail_value("draft_p", "of a row for every node that has a child, node " + std::to_string(parent),
                    std::to_string(a.draft_rows) + " rows");
  }
}

// A kernel stops where a row is no distribution, and says so; its answers are not handed out then.
void check_walks(const Call& call, const tree::VerifyStochasticArgs& a, const int64_t* accepted) {
  for (int64_t b = 0; Call::on_host() && b < a.batch; ++b) {
    if (accepted[b] >= 0) continue;
    const int64_t code = -1 - accepted[b];
    const int64_t node = code / 2;
    const bool draft = code % 2 == 1;
    std::string where = std::to_string(node);
    if (a.batch > 1) where += " of sequence ", where += std::to_string(b);
    TK_FLOAT_SWITCH(a.dtype, T, {
      const T* row = draft ? static_cast<const T*>(a.draft) + b * a.draft_batch_stride + node * a.draft_row_stride
                           : static_cast<const T*>(a.target) + b * a.target_batch_stride + node * a.target_row_stride;
      fail_row(call, draft ? "draft_p" : "target_p", row, a.dtype, where);
    })
  }
}

py::object verify_stochastic(py::handle tokens_, py::handle target_, py::handle draft_, py::handle uniforms_,
                             py::handle parents_, std::string_view rule, py::handle threshold_single,
                             py::handle threshold_total, py::handle epsilon, py::handle alpha) {
  Call call("verify_stochastic");
  tree::VerifyStochasticArgs a{};
  a.rule = rule_of(call, rule);
  const Tensor tokens = call.dense("tokens", tokens_, kIndex, "T|B T");
  const bool batched = tokens.ndim == 2;
  const Tensor target = call.in("target_p", target_, kFloat, batched ? "B T V" : "T V");
  if (draft_.is_none() == tree::draws_from_draft(a.rule)) {
    call.fail_value("draft_p", draft_.is_none() ? "given" : "None",
                    std::string(draft_.is_none() ? "None for rule '" : "an array for rule '").append(rule).append("'"));
  }
  const Tensor draft = call.optional("draft_p", draft_, dtype_bit(target.dtype), batched ? "B Q V" : "Q V");
  call.set('U', call.dim('T') + 1);
  const Tensor uniforms = call.dense("uniforms", uniforms_, kF32, batched ? "B U" : "U");
  const Tensor parents = tree_parents(call, parents_, batched ? "T|B T" : "T");
  check_mass_rows(call, "target_p", batched ? call.dim('B') : 1);
  check_coins(call, "uniforms", uniforms);
  a.tokens = tokens.as<int64_t>();
  a.parents = parents_of(parents);
  a.target = target.data;
  a.uniforms = uniforms.as<float>();
  a.dtype = target.dtype;
  a.batch = batched ? call.dim('B') : 1;
  a.nodes = call.dim('T');
  a.width = call.dim('V');
  a.target_batch_stride = batched ? target.stride(0) : 0;
  a.target_row_stride = target.stride(target.ndim - 2);
  a.threshold_single = call.real("threshold_single", threshold_single, 0, 1);
  a.threshold_total = call.real("threshold_total", threshold_total, 0, 1);
  a.epsilon = call.real("epsilon", epsilon, 0, 1);
  a.alpha = call.real("alpha", alpha, 0, kMostAlpha);
  a.slack = tree::mass_slack(a.dtype, a.width);
  if (draft) {
    a.draft = draft.data;
    a.draft_rows = call.dim('Q');
    a.draft_batch_stride = batched ? draft.stride(0) : 0;
    a.draft_row_stride = draft.stride(draft.ndim - 2);
    check_draft_rows(call, a);
  }
  check_words(call, a);
  const Tensor path = call.out("path", py::none(), DType::i64, batched ? "B T" : "T");
  const Tensor accepted = call.out("accepted", py::none(), DType::i64, batched ? "B" : "");
  const Tensor bonus = call.out("bonus", py::none(), DType::i64, batched ? "B" : "");
  a.path = path.as<int64_t>();
  a.accepted = accepted.as<int64_t>();
  a.bonus = bonus.as<int64_t>();
  TK_RUN(call, tree, verify_stochastic, a);
  check_walks(call, a, a.accepted);
  return call.results();
}

}  // namespace

void bind_tree_verify(py::module_& m) {
  m.def("residual_sample", &residual_sample);
  m.def("verify_greedy", &verify_greedy);
  m.def("verify_stochastic", &verify_stochastic);
}

}  // namespace tk::bind
