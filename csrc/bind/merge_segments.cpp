// SPDX-License-Identifier: Apache-2.0
// Family merge, ops over segments of tokens: checked arguments -> launcher, one function per op.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "merge/segment_broadcast.h"
#include "merge/segment_reduce.h"
#include "merge/segment_reduce_backward.h"
#include "merge/segment_softmax.h"

namespace tk::bind {
namespace {

merge::SegmentMode mode_of(const Call& call, std::string_view mode) {
  if (mode == "mean") return merge::SegmentMode::mean;
  if (mode == "sum") return merge::SegmentMode::sum;
  if (mode == "amax") return merge::SegmentMode::amax;
  call.fail_value("mode", "'mean', 'sum' or 'amax'", "'" + std::string(mode) + "'");
}

// One sequence, without batch, or a batch of them: the shapes of all arguments follow the first one.
struct Form {
  bool batched;
  const char* operator()(const char* batch, const char* single) const { return batched ? batch : single; }
  int64_t batch_stride(const Tensor& t) const { return batched ? t.stride(0) : 0; }
};

Form form_of(Call& call, const Tensor& first, int batched_rank) {
  const Form form{first.ndim == batched_rank};
  if (!form.batched) call.set('B', 1);
  return form;
}

merge::SegmentIndex with_offsets(const Tensor& offsets) {
  return {offsets.as<int64_t>(), nullptr, offsets.ndim == 2 ? offsets.stride(0) : 0};
}

merge::SegmentIndex with_ids(const Tensor& ids) {
  // torch gives an empty tensor no address, but a null pointer would say that the index is by offsets.
  static constexpr int64_t kNoIds = -1;
  const int64_t* data = ids.as<int64_t>();
  return {nullptr, data ? data : &kNoIds, ids.ndim == 2 ? ids.stride(0) : 0};
}

void check_one_index(const Call& call, py::handle offsets, py::handle ids) {
  if (offsets.is_none() != ids.is_none()) return;
  call.fail_value("offsets", "given, or else ids", offsets.is_none() ? "neither" : "both");
}

// Takes offsets over N tokens and binds S, the number of segments.
merge::SegmentIndex take_offsets(Call& call, const Form& form, py::handle offsets_) {
  const Tensor offsets = call.in("offsets", offsets_, kIndex, form("B T|T", "T"));
  call.check_offsets("offsets", offsets, call.dim('N'));
  call.set('S', call.dim('T') - 1);
  return with_offsets(offsets);
}

// Takes offsets or ids over N tokens and binds S.
merge::SegmentIndex take_index(Call& call, const Form& form, py::handle offsets_, py::handle ids_,
                               py::handle segments) {
  check_one_index(call, offsets_, ids_);
  if (ids_.is_none()) {
    const merge::SegmentIndex index = take_offsets(call, form, offsets_);
    if (!segments.is_none() && call.integer("segments", segments, 0) != call.dim('S')) {
      call.fail_value("segments", "one less than the number of offsets, " + std::to_string(call.dim('S')),
                      py::str(segments));
    }
    return index;
  }
  const Tensor ids = call.in("ids", ids_, kIndex, form("B N|N", "N"));
  call.set('S', call.integer("segments", segments, 0));
  call.check_extents("segments",
                     {call.dim('S'), std::max<int64_t>(call.dim('B'), 1), 2, std::max<int64_t>(call.dim('C'), 1)});
  call.check_index("ids", ids, call.dim('S'), -1);
  return with_ids(ids);
}

py::object segment_reduce(py::handle x_, py::handle offsets_, py::handle ids_, py::handle segments,
                          std::string_view mode_, py::handle weight_, bool return_mass, py::handle out_,
                          py::handle mass_) {
  Call call("segment_reduce");
  const Tensor x = call.in("x", x_, kFloat, "B N C|N C");
  const Form form = form_of(call, x, 3);
  const merge::SegmentIndex index = take_index(call, form, offsets_, ids_, segments);
  const merge::SegmentMode mode = mode_of(call, mode_);
  const Tensor weight = call.optional_dense("weight", weight_, kF32, form("B N", "N"));
  if (weight && mode == merge::SegmentMode::amax) call.fail_value("weight", "None with mode 'amax'", "an array");
  const Tensor out = call.out("out", out_, x.dtype, form("B S C", "S C"));
  const Tensor mass = return_mass ? call.out("mass", mass_, DType::f32, form("B S", "S")) : Tensor{};
  TK_RUN(call, merge, segment_reduce,
         merge::SegmentReduceArgs{x.data, index, weight.as<float>(), out.data, mass.as<float>(), x.dtype, mode,
                                  call.dim('B'), call.dim('N'), call.dim('S'), call.dim('C'), form.batch_stride(x),
                                  x.stride(x.ndim - 2)});
  return call.results();
}

// The number of tokens is where the offsets end; on a device nobody can look.
int64_t tokens_of(const Call& call, const Tensor& offsets, py::handle tokens) {
  if (!tokens.is_none()) return call.integer("tokens", tokens, 0);
  if (!Call::on_host()) call.fail_value("tokens", "given with offsets on a device", "None");
  if (call.dim('B') == 0 || call.dim('T') == 0) return 0;
  return std::max<int64_t>(offsets.as<int64_t>()[call.dim('T') - 1], 0);
}

merge::SegmentIndex take_index_of_rows(Call& call, const Form& form, const char* rows, py::handle offsets_,
                                       py::handle ids_, py::handle tokens) {
  check_one_index(call, offsets_, ids_);
  if (offsets_.is_none()) {
    const Tensor ids = call.in("ids", ids_, kIndex, form("B N|N", "N"));
    call.check_index("ids", ids, call.dim('S'), -1);
    return with_ids(ids);
  }
  const Tensor offsets = call.in("offsets", offsets_, kIndex, form("B T|T", "T"));
  if (call.dim('T') != call.dim('S') + 1) {
    call.fail_value(
        "offsets", std::string("one longer than ") + rows + " has rows, " + std::to_string(call.dim('S') + 1) + " long",
        std::to_string(call.dim('T')));
  }
  call.set('N', tokens_of(call, offsets, tokens));
  call.check_extents("tokens",
                     {call.dim('N'), std::max<int64_t>(call.dim('B'), 1), std::max<int64_t>(call.dim('C'), 1)});
  call.check_offsets("offsets", offsets, call.dim('N'));
  return with_offsets(offsets);
}

py::object segment_broadcast(py::handle y_, py::handle offsets, py::handle ids, py::handle tokens, py::handle out_) {
  Call call("segment_broadcast");
  const Tensor y = call.in("y", y_, kFloat, "B S C|S C");
  const Form form = form_of(call, y, 3);
  const merge::SegmentIndex index = take_index_of_rows(call, form, "y", offsets, ids, tokens);
  const Tensor out = call.out("out", out_, y.dtype, form("B N C", "N C"));
  TK_RUN(call, merge, segment_broadcast,
         merge::SegmentBroadcastArgs{y.data, index, out.data, y.dtype, call.dim('B'), call.dim('N'), call.dim('S'),
                                     call.dim('C'), form.batch_stride(y), y.stride(y.ndim - 2)});
  return call.results();
}

// x may be None where neither the mode nor grad_weight needs it; N is then told by the index, or by `tokens`.
py::object segment_reduce_backward(py::handle grad_, py::handle x_, py::handle offsets, py::handle ids,
                                   py::handle tokens, std::string_view mode_, py::handle weight_, py::handle grad_mass_,
                                   bool weight_grad) {
  Call call("segment_reduce_backward");
  const Tensor grad = call.in("grad", grad_, kFloat, "B S C|S C");
  const Form form = form_of(call, grad, 3);
  const merge::SegmentIndex index = take_index_of_rows(call, form, "grad", offsets, ids, tokens);
  const merge::SegmentMode mode = mode_of(call, mode_);
  const bool is_max = mode == merge::SegmentMode::amax;
  const Tensor x = call.optional("x", x_, dtype_bit(grad.dtype), form("B N C", "N C"));
  if (!x && (weight_grad || is_max)) call.fail_value("x", "given for mode 'amax' and for grad_weight", "None");
  if (is_max && call.dim('N') > INT32_MAX) call.fail_value("x", "shorter than 2^31 tokens in mode 'amax'", "more");
  const Tensor weight = call.optional_dense("weight", weight_, kF32, form("B N", "N"));
  if (is_max && (weight || weight_grad)) call.fail_value("weight", "None with mode 'amax'", "a weight or its gradient");
  const Tensor grad_mass = call.optional_dense("grad_mass", grad_mass_, kF32, form("B S", "S"));
  const Tensor grad_x = call.out("grad_x", py::none(), grad.dtype, form("B N C", "N C"));
  const Tensor grad_weight = weight_grad ? call.out("grad_weight", py::none(), DType::f32, form("B N", "N")) : Tensor{};
  TK_RUN(call, merge, segment_reduce_backward,
         merge::SegmentReduceBackwardArgs{
             grad.data, x.data, index, weight.as<float>(), grad_mass.as<float>(), grad_x.data, grad_weight.as<float>(),
             grad.dtype, mode, call.dim('B'), call.dim('N'), call.dim('S'), call.dim('C'), form.batch_stride(grad),
             grad.stride(grad.ndim - 2), x ? form.batch_stride(x) : 0, x ? x.stride(x.ndim - 2) : 0});
  return call.results();
}

py::object segment_softmax(py::handle scores_, py::handle offsets_, py::handle out_) {
  Call call("segment_softmax");
  const Tensor scores = call.in("scores", scores_, kFloat, "B N|N");
  const Form form = form_of(call, scores, 2);
  const merge::SegmentIndex index = take_offsets(call, form, offsets_);
  const Tensor out = call.out("out", out_, scores.dtype, form("B N", "N"));
  TK_RUN(call, merge, segment_softmax,
         merge::SegmentSoftmaxArgs{scores.data, index.offsets, out.data, scores.dtype, call.dim('B'), call.dim('N'),
                                   call.dim('S'), form.batch_stride(scores), index.batch_stride});
  return call.results();
}

py::object segment_softmax_backward(py::handle grad_, py::handle p_, py::handle offsets_, py::handle out_) {
  Call call("segment_softmax_backward");
  const Tensor grad = call.in("grad", grad_, kFloat, "B N|N");
  const Form form = form_of(call, grad, 2);
  const Tensor p = call.in("p", p_, dtype_bit(grad.dtype), form("B N", "N"));
  const merge::SegmentIndex index = take_offsets(call, form, offsets_);
  const Tensor out = call.out("out", out_, grad.dtype, form("B N", "N"));
  TK_RUN(call, merge, segment_softmax_backward,
         merge::SegmentSoftmaxBackwardArgs{grad.data, p.data, index.offsets, out.data, grad.dtype, call.dim('B'),
                                           call.dim('N'), call.dim('S'), form.batch_stride(grad), form.batch_stride(p),
                                           index.batch_stride});
  return call.results();
}

}  // namespace

void bind_merge_segments(py::module_& m) {
  m.def("segment_reduce", &segment_reduce);
  m.def("segment_reduce_backward", &segment_reduce_backward);
  m.def("segment_softmax", &segment_softmax);
  m.def("segment_softmax_backward", &segment_softmax_backward);
  m.def("segment_broadcast", &segment_broadcast);
}

}  // namespace tk::bind
