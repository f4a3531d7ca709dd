// SPDX-License-Identifier: Apache-2.0
// Family quantize, how a codebook is trained and used: checked arguments -> launcher, one function per op.
#include <string>

#include "bind/call.h"
#include "bind/families.h"
#include "quantize/codebook_stats.h"
#include "quantize/ema_update.h"

namespace tk::bind {
namespace {

int64_t code_count(Call& call, py::handle codes_) {
  const int64_t codes = call.integer("K", codes_, 1);
  call.set('K', codes);
  return codes;
}

py::object ema_update(py::handle x_, py::handle index_, py::handle codes_, py::handle counts_, py::handle sums_) {
  Call call("ema_update");
  const Tensor x = call.in("x", x_, kFloat, "N D|Q N D");
  const bool single = x.ndim == 2;
  const Tensor index = call.dense("index", index_, kIndex, single ? "N" : "Q N");
  const int64_t codes = code_count(call, codes_);
  const int64_t books = single ? 1 : call.dim('Q');
  const int64_t rows = call.dim('N');
  const int64_t width = call.dim('D');
  call.check_extents("K", {books, codes, width});
  call.check_extents("K", {books, codes});
  const Tensor counts = call.out("counts", counts_, DType::i64, single ? "K" : "Q K");
  const Tensor sums = call.out("sums", sums_, DType::f32, single ? "K D" : "Q K D");
  call.check_index("index", index, codes, -1);
  TK_RUN(call, quantize, ema_update,
         quantize::EmaUpdateArgs{x.data, index.as<int64_t>(), counts.as<int64_t>(), sums.as<float>(), x.dtype, books,
                                 rows, codes, width, single ? 0 : x.stride(0), x.stride(single ? 0 : 1)});
  return call.results();
}

py::object codebook_stats(py::handle index_, py::handle codes_, bool per_book, py::handle counts_, py::handle usage_,
                          py::handle entropy_, py::handle perplexity_, py::handle normalized_) {
  Call call("codebook_stats");
  const Tensor index = call.dense("index", index_, kIndex, per_book ? "Q N|Q A N|Q A B N" : "N|A N|A B N|A B C N");
  const int64_t codes = code_count(call, codes_);
  int64_t rows = 1;
  for (int i = per_book ? 1 : 0; i < index.ndim; ++i) {
    call.check_extents("index", {rows, index.size(i)});
    rows *= index.size(i);
  }
  const int64_t books = per_book ? call.dim('Q') : 1;
  call.check_extents("K", {books, codes});
  call.set('S', 1);
  const char* shape = per_book ? "Q" : "S";
  const Tensor counts = call.out("counts", counts_, DType::i64, per_book ? "Q K" : "K");
  const Tensor usage = call.out("usage", usage_, DType::f32, shape);
  const Tensor entropy = call.out("entropy", entropy_, DType::f32, shape);
  const Tensor perplexity = call.out("perplexity", perplexity_, DType::f32, shape);
  const Tensor normalized = call.out("normalized_entropy", normalized_, DType::f32, shape);
  call.check_index("index", index, codes, -1);
  TK_RUN(call, quantize, codebook_stats,
         quantize::CodebookStatsArgs{index.as<int64_t>(), counts.as<int64_t>(), usage.as<float>(), entropy.as<float>(),
                                     perplexity.as<float>(), normalized.as<float>(), books, rows, codes});
  return call.results();
}

}  // namespace

void bind_quantize_codebook(py::module_& m) {
  m.def("ema_update", &ema_update);
  m.def("codebook_stats", &codebook_stats);
}

}  // namespace tk::bind
