// SPDX-License-Identifier: Apache-2.0
// Family tree, the head of a language model: checked arguments -> launcher.
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "tree/head_argmax_prob.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostHeadRows = INT32_MAX;  // of h and of W: ids fit 32 bits inside kernels

py::object head_argmax_prob(py::handle h_, py::handle w_, py::handle norm_weight_, py::handle eps_, py::handle id_,
                            py::handle prob_) {
  Call call("head_argmax_prob");
  const Tensor h = call.in("h", h_, kFloat, "N D");
  const Tensor w = call.in("W", w_, dtype_bit(h.dtype), "V D");
  const Tensor norm_weight = call.optional_dense("norm_weight", norm_weight_, dtype_bit(h.dtype), "D");
  const double eps = call.real("eps", eps_, 0.0, 1.0);
  const int64_t rows = call.dim('N');
  const int64_t vocabulary = call.dim('V');
  if (vocabulary < 1) call.fail_value("W", "of at least one row", "none");
  if (rows > kMostHeadRows) call.fail_value("h", "of less than 2^31 rows", std::to_string(rows));
  if (vocabulary > kMostHeadRows) call.fail_value("W", "of less than 2^31 rows", std::to_string(vocabulary));
  const Tensor id = call.out("id", id_, DType::i64, "N");
  const Tensor prob = call.out("prob", prob_, DType::f32, "N");
  TK_RUN(call, tree, head_argmax_prob,
         tree::HeadArgmaxProbArgs{h.data, w.data, norm_weight.data, id.as<int64_t>(), prob.as<float>(), h.dtype, rows,
                                  vocabulary, call.dim('D'), h.stride(0), w.stride(0), static_cast<float>(eps)});
  return call.results();
}

}  // namespace

void bind_tree_head(py::module_& m) { m.def("head_argmax_prob", &head_argmax_prob); }

}  // namespace tk::bind
