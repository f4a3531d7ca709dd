// SPDX-License-Identifier: Apache-2.0
// Family tree, attention of draft trees: checked arguments -> launcher.
#include "tree/tree_attention.h"

#include <algorithm>
#include <string>

#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"
#include "bind/head_rows.h"
#include "bind/tree_parents.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostHeadWidth = 256;

void check_heads(const Call& call) {
  const int64_t heads = call.dim('H');
  const int64_t groups = call.dim('G');
  if (groups == 0 ? heads != 0 : heads % groups != 0) {
    call.fail_value("k_cache", "of a number of heads that divides the " + std::to_string(heads) + " heads of q",
                    std::to_string(groups));
  }
  if (call.dim('D') < 1 || call.dim('D') > kMostHeadWidth) {
    call.fail_value("q", "of a head width from 1 to " + std::to_string(kMostHeadWidth), std::to_string(call.dim('D')));
  }
}

// Lengths within the cache, and pages in range where a row in use is on them.
void check_rows(const Call& call, const tree::TreeAttentionArgs& a, int64_t pages) {
  if (!Call::on_host()) return;
  const int64_t most = a.table.pages ? a.table.per_sequence * a.table.rows : a.table.rows;
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t length = tree::prefix_length(a, b);
    const int64_t nodes = tree::count_nodes(a, b);
    const std::string where = a.lengths ? " at flat position " + std::to_string(b) : "";
    if (length < 0) call.fail_value("lengths", "at least 0", std::to_string(length) + where);
    if (length > most - nodes) {
      call.fail_value(
          "lengths", "within the cache: its " + std::to_string(most) + " rows less " + std::to_string(nodes) + " nodes",
          std::to_string(length) + where);
    }
    const int64_t last = a.table.pages ? (length + nodes - 1) / a.table.rows : -1;
    for (int64_t i = b * a.table.per_sequence; i <= b * a.table.per_sequence + last; ++i) {
      if (a.table.pages[i] >= 0 && a.table.pages[i] < pages) continue;
      call.fail_value("pages", "in [0, " + std::to_string(pages) + ") where rows are in use",
                      std::to_string(a.table.pages[i]) + " at flat position " + std::to_string(i));
    }
  }
}

// `lengths` is an array, or None for `length` of every sequence.
py::object tree_attention(py::handle q_, py::handle k_, py::handle v_, py::handle lengths_, py::handle length_,
                          py::handle parents_, py::handle scale_, py::handle pages_, bool return_lse, py::handle out_,
                          py::handle lse_) {
  Call call("tree_attention");
  const Tensor q = call.in("q", q_, kFloat, "B H T D");
  const char* cache_shape = pages_.is_none() ? "B G S D" : "P G R D";
  const Tensor k = call.in("k_cache", k_, dtype_bit(q.dtype), cache_shape);
  const Tensor v = call.in("v_cache", v_, dtype_bit(q.dtype), cache_shape);
  check_heads(call);
  const Tensor lengths = call.optional_dense("lengths", lengths_, kIndex, "B");
  const int64_t length = lengths ? 0 : call.integer("lengths", length_, 0);
  const Tensor parents = tree_parents(call, parents_, "T|B T");
  const Tensor pages = call.optional_dense("pages", pages_, kIndex, "B M");
  if (pages) call.check_extents("pages", {call.dim('M'), call.dim('R')});
  const double scale = scale_of(call, scale_);
  const Tensor out = call.out("out", out_, q.dtype, "B H T D");
  const Tensor lse = return_lse ? call.out("lse", lse_, DType::f32, "B H T") : Tensor{};
  const tree::PageTable table{pages.as<int64_t>(), pages ? call.dim('M') : 0, call.dim(pages ? 'R' : 'S'), k.size(0)};
  const tree::TreeAttentionArgs args{head_rows(q),          head_rows(k),  head_rows(v),        table,
                                     lengths.as<int64_t>(), length,        parents_of(parents), out.data,
                                     lse.as<float>(),       q.dtype,       call.dim('B'),       call.dim('H'),
                                     call.dim('G'),         call.dim('T'), call.dim('D'),       scale};
  check_rows(call, args, pages ? call.dim('P') : 0);
  TK_RUN(call, tree, tree_attention, args);
  return call.results();
}

}  // namespace

void bind_tree_attention(py::module_& m) { m.def("tree_attention", &tree_attention); }

}  // namespace tk::bind
