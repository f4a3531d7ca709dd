// SPDX-License-Identifier: Apache-2.0
// Family select, items that lie far apart: checked arguments -> launcher.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/metric_arg.h"
#include "select/farthest_points.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostPoints = INT32_MAX;  // of all samples together

std::string quoted(std::string_view word) { return std::string("'").append(word).append("'"); }

selection::Spread spread_of(const Call& call, std::string_view mode) {
  if (mode == "maxmin") return selection::Spread::maxmin;
  if (mode == "maxsum") return selection::Spread::maxsum;
  call.fail_value("mode", "'maxmin' or 'maxsum'", quoted(mode));
}

// One first pick for every sample, or -1 where it has to be found.
int64_t common_start(Call& call, py::handle start) {
  if (!py::isinstance<py::str>(start)) {
    const int64_t index = call.integer("start", start, 0);
    if (index < call.dim('N')) return index;
    call.fail_value("start", "in [0, " + std::to_string(call.dim('N')) + ")", std::to_string(index));
  }
  if (start.cast<std::string>() == "maxmin") return -1;
  call.fail_value("start", "'maxmin', an index, or an array of indices", quoted(start.cast<std::string>()));
}

py::object farthest_points(py::handle x_, py::handle k_, std::string_view metric_, std::string_view mode_,
                           py::handle start_, py::handle mask_, py::handle order_, py::handle score_) {
  Call call("farthest_points");
  const Tensor x = call.in("x", x_, kFloat, "B N D|N D");
  const bool batched = x.ndim == 3;
  if (!batched) call.set('B', 1);
  const int64_t batch = call.dim('B');
  const int64_t n = call.dim('N');
  call.check_extents("x", {batch, n});
  if (batch > kMostPoints || batch * n > kMostPoints) {
    call.fail_value("x", "of less than 2^31 rows", std::to_string(batch) + " samples of " + std::to_string(n));
  }
  const int64_t k = call.set_count("k", 'K', k_);
  if (k > n) call.fail_value("k", "in [0, " + std::to_string(n) + "]", std::to_string(k));
  const Metric metric = metric_of(call, metric_);
  const selection::Spread mode = spread_of(call, mode_);
  const bool own_starts = py::hasattr(start_, "__dlpack__");
  const Tensor starts = own_starts ? call.dense("start", start_, kIndex, "B") : Tensor{};
  if (starts) call.check_index("start", starts, n);
  const int64_t start = starts ? -1 : common_start(call, start_);
  const Tensor mask = call.optional_dense("mask", mask_, kMask, batched ? "B N" : "N");
  const Tensor order = call.out("order", order_, DType::i64, batched ? "B K" : "K");
  const Tensor score = call.out("score", score_, DType::f32, batched ? "B K" : "K");
  TK_RUN(call, selection, farthest_points,
         selection::FarthestPointsArgs{x.data, mask.as<uint8_t>(), starts.as<int64_t>(), order.as<int64_t>(),
                                       score.as<float>(), x.dtype, metric, mode, start, batch, n, call.dim('D'), k,
                                       batched ? x.stride(0) : 0, x.stride(batched ? 1 : 0)});
  return call.results();
}

}  // namespace

void bind_select_points(py::module_& m) { m.def("farthest_points", &farthest_points); }

}  // namespace tk::bind
