// SPDX-License-Identifier: Apache-2.0
#include "bind/attention_policy.h"

#include <cmath>
#include <string>

namespace tk::bind {
namespace {

using attention::Policy;
using attention::PolicyKind;

constexpr int64_t kMostWidth = 256;

int64_t number(const py::tuple& numbers, size_t i) { return numbers[i].cast<int64_t>(); }

// An extent that one entry may stand for.
void check_shared(const Call& call, const char* name, const char* what, int64_t got, int64_t full) {
  if (got == full || got == 1) return;
  call.fail_value(name, std::string(what) + " of 1 or " + std::to_string(full), std::to_string(got));
}

int64_t shared_stride(const Tensor& t, int i) { return t.size(i) == 1 ? 0 : t.stride(i); }

void check_extent(const Call& call, const char* name, const char* rule, int64_t expected, int64_t got) {
  if (got == expected) return;
  call.fail_value(name, std::string(rule) + ", " + std::to_string(expected), std::to_string(got));
}

Policy causal(const py::tuple& numbers) {
  Policy p;
  p.kind = PolicyKind::causal;
  p.prefix = number(numbers, 0);
  p.offset = number(numbers, 1);
  return p;
}

Policy block_map(Call& call, const py::tuple& arrays) {
  Policy p;
  p.kind = PolicyKind::block_map;
  const Tensor map = call.in("map", arrays[0], kMask, "X Y P Q");
  check_shared(call, "map", "a batch", map.size(0), call.dim('B'));
  check_shared(call, "map", "a number of heads", map.size(1), call.dim('H'));
  call.set('E', call.dim('P') + 1);
  call.set('F', call.dim('Q') + 1);
  const Tensor rows = call.in("row offsets", arrays[1], kIndex, "I J E");
  check_shared(call, "row_sizes", "a batch", rows.size(0), call.dim('B'));
  check_shared(call, "row_sizes", "a number of heads", rows.size(1), call.dim('H'));
  const Tensor columns = call.in("column offsets", arrays[2], kIndex, "K L F");
  check_shared(call, "col_sizes", "a batch", columns.size(0), call.dim('B'));
  check_shared(call, "col_sizes", "a number of heads", columns.size(1), call.dim('H'));
  call.check_offsets("row offsets", rows, call.dim('N'));
  call.check_offsets("column offsets", columns, call.dim('M'));
  if (call.dim('P') == 0 && call.dim('N') > 0) call.fail_value("map", "at least one row of blocks", "none");
  p.map = map.as<uint8_t>();
  p.map_batch_stride = shared_stride(map, 0);
  p.map_head_stride = shared_stride(map, 1);
  p.map_row_stride = map.stride(2);
  p.rows = rows.as<int64_t>();
  p.columns = columns.as<int64_t>();
  p.row_blocks = call.dim('P');
  p.column_blocks = call.dim('Q');
  p.rows_batch_stride = shared_stride(rows, 0);
  p.rows_head_stride = shared_stride(rows, 1);
  p.columns_batch_stride = shared_stride(columns, 0);
  p.columns_head_stride = shared_stride(columns, 1);
  return p;
}

Policy disc(const Call& call, const py::tuple& numbers) {
  Policy p;
  p.kind = PolicyKind::disc;
  p.height = number(numbers, 0);
  p.width = number(numbers, 1);
  p.reach = number(numbers, 2);
  p.prefix = number(numbers, 3);
  p.pooled = number(numbers, 4);
  const int64_t tokens = p.prefix + p.height * p.width;
  check_extent(call, "q", "as many tokens as prefix and grid", tokens, call.dim('N'));
  check_extent(call, "k", "as many tokens as prefix, grid and pooled keys", tokens + p.pooled, call.dim('M'));
  return p;
}

Policy segments(Call& call, const py::tuple& numbers, const py::tuple& arrays) {
  Policy p;
  p.kind = PolicyKind::segments;
  p.causal = number(numbers, 0) != 0;
  const Tensor rows = call.in("cu_q", arrays[0], kIndex, "B S|S");
  const Tensor columns = call.in("cu_k", arrays[1], kIndex, "B S|S");
  call.check_offsets("cu_q", rows, call.dim('N'));
  call.check_offsets("cu_k", columns, call.dim('M'));
  if (call.dim('S') < 1) call.fail_value("cu_q", "at least one offset long", "none");
  if (call.dim('S') == 1 && call.dim('N') + call.dim('M') > 0) call.fail_value("cu_q", "at least one segment", "none");
  p.rows = rows.as<int64_t>();
  p.columns = columns.as<int64_t>();
  p.row_blocks = call.dim('S') - 1;
  p.column_blocks = p.row_blocks;
  p.rows_batch_stride = rows.ndim == 2 ? rows.stride(0) : 0;
  p.columns_batch_stride = columns.ndim == 2 ? columns.stride(0) : 0;
  return p;
}

Policy tree(Call& call, const py::tuple& numbers, const py::tuple& arrays) {
  Policy p;
  p.kind = PolicyKind::tree;
  p.prefix = number(numbers, 0);
  call.set('W', (call.dim('N') + 63) / 64);
  const Tensor words = call.dense("ancestors", arrays[0], dtype_bit(DType::i64), "X N W");
  check_shared(call, "ancestors", "a batch", words.size(0), call.dim('B'));
  check_extent(call, "k", "as many tokens as prefix and nodes", p.prefix + call.dim('N'), call.dim('M'));
  p.ancestors = words.as<uint64_t>();
  p.tree_batch_stride = shared_stride(words, 0);
  p.tree_words = call.dim('W');
  return p;
}

Policy mask(Call& call, const py::tuple& numbers, const py::tuple& arrays) {
  Policy p;
  p.kind = PolicyKind::mask;
  p.causal = number(numbers, 0) != 0;
  p.offset = number(numbers, 1);
  const Tensor map = call.in("mask", arrays[0], kMask, "X Y N M");
  check_shared(call, "mask", "a batch", map.size(0), call.dim('B'));
  check_shared(call, "mask", "a number of heads", map.size(1), call.dim('H'));
  p.map = map.as<uint8_t>();
  p.map_batch_stride = shared_stride(map, 0);
  p.map_head_stride = shared_stride(map, 1);
  p.map_row_stride = map.stride(2);
  return p;
}

bool takes_float64() {
#if defined(TK_MODULE_CPU)
  return current_level() == Level::ref;
#else
  return false;
#endif
}

double finite_number(const Call& call, const char* name, py::handle object, const char* expected) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    call.fail_type(name, expected, Py_TYPE(object.ptr())->tp_name);
  }
  if (!std::isfinite(value)) call.fail_value(name, expected, py::str(object));
  return value;
}

}  // namespace

attention::Policy take_policy(Call& call, std::string_view kind, const py::tuple& numbers, const py::tuple& arrays) {
  if (kind == "dense") return {};
  if (kind == "causal") return causal(numbers);
  if (kind == "block_map") return block_map(call, arrays);
  if (kind == "disc") return disc(call, numbers);
  if (kind == "segments") return segments(call, numbers, arrays);
  if (kind == "tree") return tree(call, numbers, arrays);
  if (kind == "mask") return mask(call, numbers, arrays);
  call.fail_value("policy", "one of dense, causal, block_map, disc, segments, tree, mask", std::string(kind));
}

HeadArgs take_heads(Call& call, py::handle q_, py::handle k_) {
  HeadArgs a;
  a.q = call.in("q", q_, takes_float64() ? kFloat | dtype_bit(DType::f64) : kFloat, "B H N D");
  a.k = take_like(call, "k", k_, a.q, "B G M D");
  const int64_t heads = call.dim('H');
  const int64_t groups = call.dim('G');
  if (groups == 0 ? heads != 0 : heads % groups != 0) {
    call.fail_value("k", "a number of heads that divides the " + std::to_string(heads) + " heads of q",
                    std::to_string(groups));
  }
  if (call.dim('D') < 1 || call.dim('D') > kMostWidth) {
    call.fail_value("q", "a head width from 1 to " + std::to_string(kMostWidth), std::to_string(call.dim('D')));
  }
  call.check_finite("q", a.q);
  call.check_finite("k", a.k);
  a.shape = {call.dim('B'), heads, groups, {call.dim('N'), call.dim('M')}, call.dim('D')};
  return a;
}

Tensor take_like(Call& call, const char* name, py::handle object, const Tensor& q, const char* shape) {
  return call.in(name, object, dtype_bit(q.dtype), shape);
}

attention::KeyBias take_key_bias(Call& call, py::handle bias_) {
  const Tensor bias = call.optional("key_bias", bias_, kF32, "U V M");
  if (!bias) return {};
  check_shared(call, "key_bias", "a batch", bias.size(0), call.dim('B'));
  check_shared(call, "key_bias", "a number of heads", bias.size(1), call.dim('H'));
  return {bias.as<float>(), shared_stride(bias, 0), shared_stride(bias, 1)};
}

double scale_of(const Call& call, py::handle scale) {
  if (scale.is_none()) return 1.0 / std::sqrt(static_cast<double>(call.dim('D')));
  return finite_number(call, "scale", scale, "a finite number");
}

double extra_of(const Call& call, py::handle extra) {
  const char* expected = "a finite number, at least 0";
  const double value = finite_number(call, "extra_denominator", extra, expected);
  if (value < 0.0) call.fail_value("extra_denominator", expected, py::str(extra));
  return value;
}

}  // namespace tk::bind
