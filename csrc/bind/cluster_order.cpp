// SPDX-License-Identifier: Apache-2.0
// Family cluster, rows in the order of their clusters and the map of clusters that meet: checked arguments -> launcher.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "bind/call.h"
#include "bind/families.h"
#include "cluster/centroid_topp_map.h"
#include "cluster/map_density.h"
#include "cluster/permute_rows.h"
#include "cluster/sort_by_label.h"

namespace tk::bind {
namespace {

py::object sort_by_label(py::handle labels_, py::handle k_, py::handle perm_, py::handle offsets_) {
  Call call("sort_by_label");
  const Tensor labels = call.in("labels", labels_, kIndex, "B N");
  const int64_t k = call.set_count("K", 'K', k_);
  call.check_extents("K", {call.dim('B') + 1, k + 1});
  call.check_index("labels", labels, k);
  call.set('P', k + 1);
  const Tensor perm = call.out("perm", perm_, DType::i64, "B N");
  const Tensor offsets = call.out("offsets", offsets_, DType::i64, "B P");
  TK_RUN(call, cluster, sort_by_label,
         cluster::SortByLabelArgs{labels.as<int64_t>(), perm.as<int64_t>(), offsets.as<int64_t>(), call.dim('B'),
                                  call.dim('N'), k});
  return call.results();
}

// Whether a row names each of [0, N) once; `seen` holds N flags.
bool is_permutation(const int64_t* row, int64_t n, std::vector<char>& seen) {
  std::fill(seen.begin(), seen.end(), char{0});
  for (int64_t i = 0; i < n; ++i) {
    if (static_cast<uint64_t>(row[i]) >= static_cast<uint64_t>(n)) return false;
    seen[static_cast<size_t>(row[i])] = 1;
  }
  return std::memchr(seen.data(), 0, seen.size()) == nullptr;
}

void check_permutation(const Call& call, const Tensor& perm) {
  if (!Call::on_host() || is_empty(perm)) return;
  const int64_t n = call.dim('N');
  int64_t count = 0;
  count_elements(perm, &count);
  const auto* values = perm.as<int64_t>();
  std::vector<char> seen(static_cast<size_t>(n));
  for (int64_t first = 0; first < count; first += n) {
    if (is_permutation(values + first, n, seen)) continue;
    call.check_index("perm", perm, n);
    std::fill(seen.begin(), seen.end(), char{0});
    int64_t i = first;
    while (!seen[static_cast<size_t>(values[i])]) seen[static_cast<size_t>(values[i++])] = 1;
    call.fail_value("perm", "a permutation in every row",
                    std::to_string(values[i]) + " a second time at flat position " + std::to_string(i));
  }
}

// (B, N, C) is one head.
cluster::PermuteRowsArgs permute_args(Call& call, const char* name, py::handle x_, py::handle perm_, py::handle out_) {
  const Tensor x = call.in(name, x_, kFloat, "B N C|B H N C");
  const bool heads = x.ndim == 4;
  const Tensor perm = call.in("perm", perm_, kIndex, heads ? "B H N" : "B N");
  check_permutation(call, perm);
  const Tensor out = call.out("out", out_, x.dtype, heads ? "B H N C" : "B N C");
  return {x.data,
          perm.as<int64_t>(),
          out.data,
          x.dtype,
          call.dim('B'),
          heads ? call.dim('H') : 1,
          call.dim('N'),
          call.dim('C'),
          x.stride(0),
          heads ? x.stride(1) : 0,
          x.stride(heads ? 2 : 1)};
}

py::object permute_rows(py::handle x_, py::handle perm_, py::handle out_) {
  Call call("permute_rows");
  TK_RUN(call, cluster, permute_rows, permute_args(call, "x", x_, perm_, out_));
  return call.results();
}

py::object inverse_permute_rows(py::handle y_, py::handle perm_, py::handle out_) {
  Call call("inverse_permute_rows");
  TK_RUN(call, cluster, inverse_permute_rows, permute_args(call, "y", y_, perm_, out_));
  return call.results();
}

void check_sizes(const Call& call, const char* name, const Tensor& sizes) {
  if (!Call::on_host()) return;
  int64_t count = 0;
  count_elements(sizes, &count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t size = sizes.as<int64_t>()[i];
    if (size < 0) {
      call.fail_value(name, "no less than 0", std::to_string(size) + " at flat position " + std::to_string(i));
    }
  }
}

float score_scale(const Call& call, py::handle scale_) {
  const auto width = static_cast<double>(call.dim('D'));
  if (scale_.is_none()) return static_cast<float>(1.0 / std::sqrt(width > 0 ? width : 1.0));
  return static_cast<float>(call.real("scale", scale_, -FLT_MAX, FLT_MAX));
}

py::object centroid_topp_map(py::handle qc_, py::handle kc_, py::handle size_k_, py::handle p_, py::handle min_ratio_,
                             py::handle scale_, bool return_prob, py::handle map_, py::handle prob_) {
  Call call("centroid_topp_map");
  const Tensor qc = call.in("qc", qc_, kFloat, "B H Q D");
  const Tensor kc = call.in("kc", kc_, dtype_bit(qc.dtype), "B H K D");
  const Tensor size_k = call.in("size_k", size_k_, kIndex, "B H K");
  const double p = call.real("p", p_, 0.0, 1.0);
  const double min_ratio = call.real("min_ratio", min_ratio_, 0.0, 1.0);
  const float scale = score_scale(call, scale_);
  check_sizes(call, "size_k", size_k);
  const Tensor map = call.out("map", map_, DType::boolean, "B H Q K");
  const Tensor prob = return_prob ? call.out("prob", prob_, DType::f32, "B H Q K") : Tensor{};
  const auto forced = static_cast<int64_t>(min_ratio * static_cast<double>(call.dim('K')));
  TK_RUN(call, cluster, centroid_topp_map,
         cluster::CentroidToppMapArgs{qc.data,
                                      kc.data,
                                      size_k.as<int64_t>(),
                                      map.as<uint8_t>(),
                                      prob.as<float>(),
                                      qc.dtype,
                                      call.dim('B'),
                                      call.dim('H'),
                                      call.dim('Q'),
                                      call.dim('K'),
                                      call.dim('D'),
                                      qc.stride(0),
                                      qc.stride(1),
                                      qc.stride(2),
                                      kc.stride(0),
                                      kc.stride(1),
                                      kc.stride(2),
                                      scale,
                                      p < 1.0 ? static_cast<int64_t>(p * cluster::kMassUnits) : cluster::kNoLimit,
                                      forced > 1 ? forced : 1});
  return call.results();
}

// Numbers of pairs are exact in int64.
void check_pairs(const Call& call, const Tensor& size_q, const Tensor& size_k) {
  check_sizes(call, "size_q", size_q);
  check_sizes(call, "size_k", size_k);
  if (!Call::on_host()) return;
  const auto fits_total = [](const Tensor& sizes, int64_t group, int64_t count, int64_t* total) {
    *total = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (__builtin_add_overflow(*total, sizes.as<int64_t>()[group * count + i], total)) return false;
    }
    return true;
  };
  for (int64_t g = 0; g < call.dim('B') * call.dim('H'); ++g) {
    int64_t queries = 0;
    int64_t keys = 0;
    int64_t pairs = 0;
    if (fits_total(size_q, g, call.dim('Q'), &queries) && fits_total(size_k, g, call.dim('K'), &keys) &&
        !__builtin_mul_overflow(queries, keys, &pairs)) {
      continue;
    }
    call.fail_value("size_q", "small enough that int64 counts all pairs with size_k", "more of them");
  }
}

py::object map_density(py::handle map_, py::handle size_q_, py::handle size_k_, py::handle out_) {
  Call call("map_density");
  const Tensor map = call.in("map", map_, kMask, "B H Q K");
  const Tensor size_q = call.in("size_q", size_q_, kIndex, "B H Q");
  const Tensor size_k = call.in("size_k", size_k_, kIndex, "B H K");
  check_pairs(call, size_q, size_k);
  const Tensor out = call.out("out", out_, DType::f32, "B H");
  TK_RUN(call, cluster, map_density,
         cluster::MapDensityArgs{map.as<uint8_t>(), size_q.as<int64_t>(), size_k.as<int64_t>(), out.as<float>(),
                                 call.dim('B') * call.dim('H'), call.dim('H'), call.dim('Q'), call.dim('K'),
                                 map.stride(0), map.stride(1), map.stride(2)});
  return call.results();
}

}  // namespace

void bind_cluster_order(py::module_& m) {
  m.def("sort_by_label", &sort_by_label);
  m.def("permute_rows", &permute_rows);
  m.def("inverse_permute_rows", &inverse_permute_rows);
  m.def("centroid_topp_map", &centroid_topp_map);
  m.def("map_density", &map_density);
}

}  // namespace tk::bind
