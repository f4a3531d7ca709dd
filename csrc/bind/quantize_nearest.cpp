// SPDX-License-Identifier: Apache-2.0
// Family quantize, which code is nearest to a row: checked arguments -> launcher, one function per op.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/metric_arg.h"
#include "quantize/nearest.h"
#include "quantize/nearest_rank.h"
#include "quantize/nearest_topk.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostCodes = INT32_MAX;

// Rows and codes of one book (two extents) or of several; what has no books of its own serves all of them.
struct CodeSearchCall {
  quantize::CodeSearch search;
  bool books;  // whether answers have the extent Q
};

CodeSearchCall code_search(Call& call, py::handle x_, py::handle codes_, std::string_view metric_) {
  const Tensor x = call.in("x", x_, kFloat, "N D|Q N D");
  call.check_finite("x", x);
  const Tensor codes = call.in("codes", codes_, dtype_bit(x.dtype), "K D|Q K D");
  call.check_finite("codes", codes);
  const int64_t count = call.dim('K');
  if (count < 1 || count > kMostCodes) {
    call.fail_value("codes", "at least 1 and below 2^31 (the number of codes)", std::to_string(count));
  }
  const bool x_books = x.ndim == 3;
  const bool c_books = codes.ndim == 3;
  const bool books = x_books || c_books;
  return {{x.data, codes.data, x.dtype, metric_of(call, metric_, Products::allowed), books ? call.dim('Q') : 1,
           call.dim('N'), count, call.dim('D'), x_books ? x.stride(0) : 0, x.stride(x_books ? 1 : 0),
           c_books ? codes.stride(0) : 0, codes.stride(c_books ? 1 : 0)},
          books};
}

py::object nearest(py::handle x_, py::handle codes_, std::string_view metric_, bool second_wanted, py::handle index_,
                   py::handle best_, py::handle second_, py::handle second_best_) {
  Call call("nearest");
  const CodeSearchCall c = code_search(call, x_, codes_, metric_);
  const char* shape = c.books ? "Q N" : "N";
  const Tensor index = call.out("index", index_, DType::i64, shape);
  const Tensor best = call.out("best", best_, DType::f32, shape);
  Tensor second;
  Tensor second_best;
  if (second_wanted) {
    second = call.out("second", second_, DType::i64, shape);
    second_best = call.out("second_best", second_best_, DType::f32, shape);
  }
  TK_RUN(call, quantize, nearest,
         quantize::NearestArgs{c.search, index.as<int64_t>(), best.as<float>(), second.as<int64_t>(),
                               second_best.as<float>()});
  return call.results();
}

py::object nearest_topk(py::handle x_, py::handle codes_, py::handle k_, std::string_view metric_, py::handle index_,
                        py::handle best_) {
  Call call("nearest_topk");
  const CodeSearchCall c = code_search(call, x_, codes_, metric_);
  const int64_t k = call.set_count("k", 'J', k_);
  if (k < 1 || k > c.search.codes_count) {
    call.fail_value("k", "in [1, " + std::to_string(c.search.codes_count) + "]", std::to_string(k));
  }
  call.check_extents("k", {c.search.books, c.search.rows, k});
  const char* shape = c.books ? "Q N J" : "N J";
  const Tensor index = call.out("index", index_, DType::i64, shape);
  const Tensor best = call.out("best", best_, DType::f32, shape);
  TK_RUN(call, quantize, nearest_topk, quantize::NearestTopkArgs{c.search, index.as<int64_t>(), best.as<float>(), k});
  return call.results();
}

py::object nearest_rank(py::handle x_, py::handle codes_, py::handle rank_, std::string_view metric_, py::handle index_,
                        py::handle best_) {
  Call call("nearest_rank");
  const CodeSearchCall c = code_search(call, x_, codes_, metric_);
  const Tensor rank = call.dense("rank", rank_, kIndex, c.books ? "N|Q N" : "N");
  call.check_index("rank", rank, c.search.codes_count);
  const char* shape = c.books ? "Q N" : "N";
  const Tensor index = call.out("index", index_, DType::i64, shape);
  const Tensor best = call.out("best", best_, DType::f32, shape);
  TK_RUN(call, quantize, nearest_rank,
         quantize::NearestRankArgs{c.search, rank.as<int64_t>(), rank.ndim == 2 ? c.search.rows : 0,
                                   index.as<int64_t>(), best.as<float>()});
  return call.results();
}

}  // namespace

void bind_quantize_nearest(py::module_& m) {
  m.def("nearest", &nearest);
  m.def("nearest_topk", &nearest_topk);
  m.def("nearest_rank", &nearest_rank);
}

}  // namespace tk::bind
