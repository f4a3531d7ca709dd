// SPDX-License-Identifier: Apache-2.0
// Family merge, who merges with whom: checked arguments -> launcher, one function per op.
#include "bind/call.h"
#include "bind/families.h"
#include "merge/cosine_match.h"
#include "merge/select_edges.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostColumns = int64_t{1} << 48;  // given as a number: rows + columns must not overflow

py::object cosine_match(py::handle a_, py::handle b_, py::handle mask_a_, py::handle mask_b_, py::handle score_,
                        py::handle index_) {
  Call call("cosine_match");
  const Tensor a = call.in("a", a_, kFloat, "B N D");
  const Tensor b = call.in("b", b_, dtype_bit(a.dtype), "B M D");
  const Tensor mask_a = call.optional_dense("mask_a", mask_a_, kMask, "B N");
  const Tensor mask_b = call.optional_dense("mask_b", mask_b_, kMask, "B M");
  const Tensor score = call.out("score", score_, DType::f32, "B N");
  const Tensor index = call.out("index", index_, DType::i64, "B N");
  TK_RUN(call, merge, cosine_match,
         merge::CosineMatchArgs{a.data, b.data, mask_a.as<uint8_t>(), mask_b.as<uint8_t>(), score.as<float>(),
                                index.as<int64_t>(), a.dtype, call.dim('B'), call.dim('N'), call.dim('M'),
                                call.dim('D'), a.stride(0), a.stride(1), b.stride(0), b.stride(1)});
  return call.results();
}

// Both sets of a partition name tokens, none of them twice; only where the memory is on the host.
void check_partition(const Call& call, const Tensor& a_ids, const Tensor& b_ids) {
  call.check_index("a_ids", a_ids, call.dim('N'));
  call.check_index("b_ids", b_ids, call.dim('N'));
#if !defined(TK_MODULE_CUDA)
  std::vector<int64_t> named_by(static_cast<size_t>(call.dim('N')), -1);
  for (int64_t b = 0; b < call.dim('B'); ++b) {
    for (const Tensor* ids : {&a_ids, &b_ids}) {
      for (int64_t i = 0; i < ids->size(1); ++i) {
        const int64_t token = ids->as<int64_t>()[b * ids->size(1) + i];
        int64_t& last = named_by[static_cast<size_t>(token)];
        if (last == b) {
          call.fail_value("a_ids and b_ids", "disjoint and without repetition",
                          "token " + std::to_string(token) + " twice in sample " + std::to_string(b));
        }
        last = b;
      }
    }
  }
#endif
}

// N of the map, and which tokens the sets may name: without ids, rows are the even and columns the odd tokens.
void bind_tokens(Call& call, int64_t tokens, bool has_ids) {
  const int64_t rows = call.dim('R');
  const int64_t columns = call.dim('M');
  if (columns > kMostColumns) call.fail_value("columns", "in [0, 2^48]", std::to_string(columns));
  if (!has_ids && rows - columns != 0 && rows - columns != 1) {
    call.fail_value("columns", "the number of odd tokens beside " + std::to_string(rows) + " even ones",
                    std::to_string(columns));
  }
  const int64_t least = rows + columns;
  if (tokens >= 0 && (tokens < least || (tokens > least && !has_ids))) {
    call.fail_value("tokens", (has_ids ? "at least " : "") + std::to_string(least), std::to_string(tokens));
  }
  call.set('N', tokens < 0 ? least : tokens);
}

py::object select_edges(py::handle score_, py::handle index_, py::handle r_, py::handle columns_, py::handle take_,
                        py::handle valid_, bool class_token, bool distill_token, bool sort_unmerged, py::handle a_ids_,
                        py::handle b_ids_, py::handle tokens_) {
  Call call("select_edges");
  const Tensor index = call.dense("index", index_, kIndex, "B R");
  const int64_t rows = call.dim('R');
  const int64_t columns = call.set_count("columns", 'M', columns_);
  if (a_ids_.is_none() != b_ids_.is_none())
    call.fail_value("b_ids", "given with a_ids, and a_ids with it", "one of them");
  const int64_t r = call.integer("r", r_, 0);
  bind_tokens(call, tokens_.is_none() ? -1 : call.integer("tokens", tokens_, 0), !a_ids_.is_none());
  const int64_t most = class_token && rows > 0 ? rows - 1 : rows;
  if (r > most) call.fail_value("r", "in [0, " + std::to_string(most) + "]", std::to_string(r));
  const bool ragged = !take_.is_none() || !valid_.is_none();
  call.set('E', r);
  call.set('U', ragged ? rows : rows - r);
  call.check_index("index", index, columns);
  const Tensor score = call.optional_dense("score", score_, kF32, "B R");
  const Tensor take = call.optional_dense("take", take_, kIndex, "B");
  if (take) call.check_index("take", take, r + 1);
  const Tensor valid = call.optional_dense("valid", valid_, kMask, "B N");
  const Tensor a_ids = call.optional_dense("a_ids", a_ids_, kIndex, "B R");
  const Tensor b_ids = call.optional_dense("b_ids", b_ids_, kIndex, "B M");
  if (a_ids) check_partition(call, a_ids, b_ids);
  const Tensor unm = call.out("unm", py::none(), DType::i64, "B U");
  const Tensor src = call.out("src", py::none(), DType::i64, "B E");
  const Tensor dst = call.out("dst", py::none(), DType::i64, "B E");
  const Tensor map = call.out("map", py::none(), DType::i64, "B N");
  merge::SelectEdgesArgs args{};
  args.score = score.as<float>();
  args.index = index.as<int64_t>();
  args.take = take.as<int64_t>();
  args.valid = valid.as<uint8_t>();
  args.a_ids = a_ids.as<int64_t>();
  args.b_ids = b_ids.as<int64_t>();
  args.unm = unm.as<int64_t>();
  args.src = src.as<int64_t>();
  args.dst = dst.as<int64_t>();
  args.map = map.as<int64_t>();
  args.batch = call.dim('B');
  args.rows = rows;
  args.columns = columns;
  args.tokens = call.dim('N');
  args.edges = r;
  args.class_token = class_token;
  args.distill_token = distill_token;
  args.sort_unmerged = sort_unmerged;
  TK_RUN(call, merge, select_edges, args);
  return call.results();
}

}  // namespace

void bind_merge_match(py::module_& m) {
  m.def("cosine_match", &cosine_match);
  m.def("select_edges", &select_edges);
}

}  // namespace tk::bind
