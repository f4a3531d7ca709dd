// SPDX-License-Identifier: Apache-2.0
// Family cluster, the two steps of k-means: checked arguments -> launcher, one function per op.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/metric_arg.h"
#include "cluster/assign.h"
#include "cluster/update.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostClusters = INT32_MAX;
constexpr int64_t kMostIterations = INT32_MAX;

void check_clusters(const Call& call, const char* name) {
  const int64_t clusters = call.dim('K');
  if (clusters >= 1 && clusters <= kMostClusters) return;
  call.fail_value(name, "at least 1 and below 2^31 (the number of clusters)", std::to_string(clusters));
}

py::object assign(py::handle x_, py::handle centroids_, std::string_view metric_, py::handle labels_,
                  py::handle best_) {
  Call call("assign");
  const Tensor x = call.in("x", x_, kFloat, "B N D");
  call.check_finite("x", x);
  const Tensor c = call.in("centroids", centroids_, dtype_bit(x.dtype), "B K D");
  call.check_finite("centroids", c);
  check_clusters(call, "centroids");
  const Metric metric = metric_of(call, metric_);
  const Tensor labels = call.out("labels", labels_, DType::i64, "B N");
  const Tensor best = call.out("best", best_, DType::f32, "B N");
  TK_RUN(call, cluster, assign,
         cluster::AssignArgs{x.data, c.data, labels.as<int64_t>(), best.as<float>(), x.dtype, metric, call.dim('B'),
                             call.dim('N'), call.dim('K'), call.dim('D'), x.stride(0), x.stride(1), c.stride(0),
                             c.stride(1)});
  return call.results();
}

py::object update(py::handle x_, py::handle labels_, py::handle old_, std::string_view metric_, py::handle centroids_,
                  py::handle counts_, py::handle shift_) {
  Call call("update");
  const Tensor x = call.in("x", x_, kFloat, "B N D");
  call.check_finite("x", x);
  const Tensor labels = call.dense("labels", labels_, kIndex, "B N");
  const Tensor old = call.in("old", old_, dtype_bit(x.dtype), "B K D");
  check_clusters(call, "old");
  const Metric metric = metric_of(call, metric_);
  call.check_index("labels", labels, call.dim('K'));
  const Tensor centroids = call.out("centroids", centroids_, x.dtype, "B K D");
  const Tensor counts = call.out("counts", counts_, DType::i64, "B K");
  const Tensor shift = call.out("shift", shift_, DType::f32, "B");
  TK_RUN(call, cluster, update,
         cluster::UpdateArgs{x.data, labels.as<int64_t>(), old.data, nullptr, counts.as<int64_t>(), centroids.data,
                             shift.as<float>(), x.dtype, metric, true, true, call.dim('B'), call.dim('N'),
                             call.dim('K'), call.dim('D'), x.stride(0), x.stride(1), old.stride(0), old.stride(1)});
  return call.results();
}

py::object cluster_sums(py::handle x_, py::handle labels_, py::handle clusters_, std::string_view metric_) {
  Call call("cluster_sums");
  const Tensor x = call.in("x", x_, kFloat, "B N D");
  call.check_finite("x", x);
  const Tensor labels = call.dense("labels", labels_, kIndex, "B N");
  call.set_count("clusters", 'K', clusters_);
  check_clusters(call, "clusters");
  const Metric metric = metric_of(call, metric_);
  call.check_index("labels", labels, call.dim('K'));
  const Tensor sums = call.out("sums", py::none(), DType::f32, "B K D");
  const Tensor counts = call.out("counts", py::none(), DType::i64, "B K");
  TK_RUN(call, cluster, update,
         cluster::UpdateArgs{x.data, labels.as<int64_t>(), nullptr, sums.as<float>(), counts.as<int64_t>(), nullptr,
                             nullptr, x.dtype, metric, true, false, call.dim('B'), call.dim('N'), call.dim('K'),
                             call.dim('D'), x.stride(0), x.stride(1), 0, 0});
  return call.results();
}

py::object cluster_means(py::handle sums_, py::handle counts_, py::handle old_, std::string_view metric_) {
  Call call("cluster_means");
  const Tensor sums = call.dense("sums", sums_, kF32, "B K D");
  const Tensor counts = call.dense("counts", counts_, kIndex, "B K");
  const Tensor old = call.in("old", old_, kFloat, "B K D");
  check_clusters(call, "old");
  const Metric metric = metric_of(call, metric_);
  call.check_index("counts", counts, INT64_MAX);
  const Tensor centroids = call.out("centroids", py::none(), old.dtype, "B K D");
  const Tensor shift = call.out("shift", py::none(), DType::f32, "B");
  TK_RUN(call, cluster, update,
         cluster::UpdateArgs{nullptr, nullptr, old.data, sums.as<float>(), counts.as<int64_t>(), centroids.data,
                             shift.as<float>(), old.dtype, metric, false, true, call.dim('B'), 0, call.dim('K'),
                             call.dim('D'), 0, 0, old.stride(0), old.stride(1)});
  return call.results();
}

// What kmeans is given, before anything is drawn or runs; the loop itself is written in Python over the ops above.
void check_kmeans(py::handle x_, py::handle k_, py::handle max_iters_, py::handle tol_, py::handle init_,
                  std::string_view metric_) {
  Call call("kmeans");
  const Tensor x = call.in("x", x_, kFloat, "B N D");
  call.check_finite("x", x);
  call.set_count("K", 'K', k_);
  check_clusters(call, "K");
  call.check_extents("K", {call.dim('B'), call.dim('K'), call.dim('D')});
  const int64_t iterations = call.integer("max_iters", max_iters_, 0);
  if (iterations > kMostIterations) call.fail_value("max_iters", "below 2^31", std::to_string(iterations));
  if (!PyFloat_Check(tol_.ptr()) && !PyLong_Check(tol_.ptr())) {
    call.fail_type("tol", "a number", Py_TYPE(tol_.ptr())->tp_name);
  }
  const double tol = PyFloat_AsDouble(tol_.ptr());
  PyErr_Clear();  // of an integer beyond every double, which reads as -1
  if (!(tol >= 0)) call.fail_value("tol", "a number of at least 0", py::str(tol_));
  metric_of(call, metric_);
  call.optional("init", init_, dtype_bit(x.dtype), "B K D");
}

}  // namespace

void bind_cluster_kmeans(py::module_& m) {
  m.def("assign", &assign);
  m.def("update", &update);
  m.def("cluster_sums", &cluster_sums);
  m.def("cluster_means", &cluster_means);
  m.def("check_kmeans", &check_kmeans);
}

}  // namespace tk::bind
