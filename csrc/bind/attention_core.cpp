// SPDX-License-Identifier: Apache-2.0
// Family attention, the core: checked arguments -> launcher, one function per op.
#include "attention/attention.h"
#include "attention/block_offsets.h"
#include "attention/pack_ancestors.h"
#include "bind/attention_policy.h"
#include "bind/call.h"
#include "bind/families.h"

namespace tk::bind {
namespace {

py::object attention_(py::handle q_, py::handle k_, py::handle v_, std::string_view kind, const py::tuple& numbers,
                      const py::tuple& arrays, py::handle key_bias, py::handle scale, py::handle extra, bool return_lse,
                      py::handle out_, py::handle lse_) {
  Call call("attention");
  const HeadArgs heads = take_heads(call, q_, k_);
  const Tensor v = take_like(call, "v", v_, heads.q, "B G M D");
  call.check_finite("v", v);
  const attention::Policy policy = take_policy(call, kind, numbers, arrays);
  const attention::KeyBias bias = take_key_bias(call, key_bias);
  const double scale_value = scale_of(call, scale);
  const double extra_value = extra_of(call, extra);
  const Tensor out = call.out("out", out_, heads.q.dtype, "B H N D");
  const DType lse_dtype = heads.q.dtype == DType::f64 ? DType::f64 : DType::f32;
  const Tensor lse = return_lse ? call.out("lse", lse_, lse_dtype, "B H N") : Tensor{};
  TK_RUN(call, attention, attention,
         attention::AttentionArgs{head_rows(heads.q), head_rows(heads.k), head_rows(v), bias, out.data, lse.data,
                                  policy, heads.shape, heads.q.dtype, scale_value, extra_value});
  return call.results();
}

void check_sizes(const Call& call, const char* name, const Tensor& sizes, int64_t total) {
  if (!Call::on_host()) return;
  const auto* values = sizes.as<int64_t>();
  for (int64_t r = 0; r < sizes.size(0); ++r) {
    int64_t sum = 0;
    for (int64_t c = 0; c < sizes.size(1); ++c) {
      const int64_t size = values[r * sizes.size(1) + c];
      if (size < 0) call.fail_value(name, "no negative size", std::to_string(size) + " at block " + std::to_string(c));
      if (__builtin_add_overflow(sum, size, &sum)) call.fail_value(name, "sizes that fit an integer", "an overflow");
    }
    if (sum == total) continue;
    call.fail_value(name, "sizes that add up to the number of tokens, " + std::to_string(total),
                    std::to_string(sum) + " in row " + std::to_string(r));
  }
}

// `name` is what the caller calls the sizes.
py::object block_offsets(py::handle sizes_, int64_t total, const char* name) {
  Call call("block_offsets");
  const Tensor sizes = call.dense(name, sizes_, kIndex, "R C");
  check_sizes(call, name, sizes, total);
  call.set('K', call.dim('C') + 1);
  const Tensor offsets = call.out("offsets", py::none(), DType::i64, "R K");
  TK_RUN(call, attention, block_offsets,
         attention::BlockOffsetsArgs{sizes.as<int64_t>(), offsets.as<int64_t>(), call.dim('R'), call.dim('C'), total});
  return call.results();
}

py::object pack_ancestors(py::handle ancestors_) {
  Call call("pack_ancestors");
  const Tensor seen = call.in("ancestors", ancestors_, kMask, "R T");
  call.set('W', (call.dim('T') + 63) / 64);
  const Tensor words = call.out("words", py::none(), DType::i64, "R W");
  TK_RUN(call, attention, pack_ancestors,
         attention::PackAncestorsArgs{seen.as<uint8_t>(), words.as<uint64_t>(), call.dim('R'), call.dim('T'),
                                      seen.stride(0)});
  return call.results();
}

}  // namespace

void bind_attention_core(py::module_& m) {
  m.def("attention", &attention_);
  m.def("block_offsets", &block_offsets);
  m.def("pack_ancestors", &pack_ancestors);
}

}  // namespace tk::bind
