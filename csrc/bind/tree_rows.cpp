// SPDX-License-Identifier: Apache-2.0
// Family tree, statistics of rows of logits: checked arguments -> launcher.
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "tree/row_stats.h"
#include "tree/row_stats_backward.h"

namespace tk::bind {
namespace {

constexpr double kBaseTwo = 1.4426950408889634;
constexpr double kLeastTemperature = 1e-6;
constexpr double kMostTemperature = 1e6;
constexpr int64_t kMostLogits = INT32_MAX;

struct LogitRows {
  int64_t batch, rows, width, batch_stride, row_stride;
};

LogitRows logit_rows(Call& call, const Tensor& logits) {
  const bool batched = logits.ndim == 3;
  const int64_t batch = batched ? call.dim('B') : 1;
  const LogitRows r{batch, call.dim('N'), call.dim('V'), batched ? logits.stride(0) : 0,
                    logits.stride(logits.ndim - 2)};
  call.check_extents("logits", {r.batch, r.rows, r.width});
  if (r.width > kMostLogits || r.batch * r.rows > kMostLogits) {
    call.fail_value("logits", "of less than 2^31 rows of less than 2^31 items",
                    std::to_string(r.batch * r.rows) + " rows of " + std::to_string(r.width));
  }
  return r;
}

py::object row_stats(py::handle logits_, py::handle ids_, py::handle temperature_, py::handle lse_, py::handle entropy_,
                     py::handle best_, py::handle p_best_, py::handle p_ids_) {
  Call call("row_stats");
  const Tensor logits = call.in("logits", logits_, kFloat, "N V|B N V");
  const bool batched = logits.ndim == 3;
  const LogitRows r = logit_rows(call, logits);
  if (r.width == 0 && r.batch * r.rows > 0) call.fail_value("logits", "rows of at least one item", "none");
  const Tensor ids = call.optional_dense("ids", ids_, kIndex, batched ? "B N K" : "N K");
  if (ids) call.check_index("ids", ids, r.width);
  const double temperature = call.real("temperature", temperature_, kLeastTemperature, kMostTemperature);
  call.set('T', 2);
  const Tensor lse = call.out("lse", lse_, DType::f32, batched ? "B N" : "N");
  const Tensor entropy = call.out("entropy", entropy_, DType::f32, batched ? "B N" : "N");
  const Tensor best = call.out("best", best_, DType::i64, batched ? "B N T" : "N T");
  const Tensor p_best = call.out("p_best", p_best_, DType::f32, batched ? "B N T" : "N T");
  if (!ids) call.set('K', 0);
  const Tensor p_ids = call.out("p_ids", p_ids_, DType::f32, batched ? "B N K" : "N K");
  TK_RUN(call, tree, row_stats,
         tree::RowStatsArgs{logits.data, ids.as<int64_t>(), best.as<int64_t>(), p_best.as<float>(), lse.as<float>(),
                            entropy.as<float>(), p_ids.as<float>(), logits.dtype, r.batch, r.rows, r.width,
                            call.dim('K'), r.batch_stride, r.row_stride, static_cast<float>(kBaseTwo / temperature)});
  return call.results();
}

py::object row_stats_backward(py::handle logits_, py::handle lse_, py::handle level_, py::handle slope_,
                              py::handle temperature_, py::handle out_) {
  Call call("row_stats_backward");
  const Tensor logits = call.in("logits", logits_, kFloat, "N V|B N V");
  const char* row_shape = logits.ndim == 3 ? "B N" : "N";
  const LogitRows r = logit_rows(call, logits);
  const Tensor lse = call.dense("lse", lse_, kF32, row_shape);
  const Tensor level = call.dense("level", level_, kF32, row_shape);
  const Tensor slope = call.dense("slope", slope_, kF32, row_shape);
  const double temperature = call.real("temperature", temperature_, kLeastTemperature, kMostTemperature);
  const Tensor out = call.out("out", out_, logits.dtype, logits.ndim == 3 ? "B N V" : "N V");
  TK_RUN(call, tree, row_stats_backward,
         tree::RowStatsBackwardArgs{logits.data, lse.as<float>(), level.as<float>(), slope.as<float>(), out.data,
                                    logits.dtype, r.batch, r.rows, r.width, r.batch_stride, r.row_stride,
                                    static_cast<float>(1.0 / temperature)});
  return call.results();
}

}  // namespace

void bind_tree_rows(py::module_& m) {
  m.def("row_stats", &row_stats);
  m.def("row_stats_backward", &row_stats_backward);
}

}  // namespace tk::bind
