// SPDX-License-Identifier: Apache-2.0
// Family quantize, residual stacks of codebooks, and what is read from a codebook: checked arguments -> launcher, one
// function per op.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "bind/metric_arg.h"
#include "quantize/lookup.h"
#include "quantize/rotate_to.h"
#include "quantize/rvq_decode.h"
#include "quantize/rvq_encode.h"

namespace tk::bind {
namespace {

constexpr int64_t kMostBookCodes = INT32_MAX;
constexpr double kLeastNorm = 1e-18;  // its square is a normal float32
// Shapes by rank: one index a row of codes, of one book or of several.
constexpr const char* kIndexShape[] = {"", "N", "A N", "A B N", "A B C N"};
constexpr const char* kCodeShape[] = {"", "N D", "A N D", "A B N D", "A B C N D"};
constexpr const char* kBookIndexShape[] = {"", "Q", "Q N", "Q A N", "Q A B N"};
constexpr const char* kBookCodeShape[] = {"", "Q D", "Q N D", "Q A N D", "Q A B N D"};

int64_t extent_before(const Tensor& x, int first, int last) {
  int64_t count = 1;
  for (int i = first; i < last; ++i) count *= x.size(i);
  return count;
}

py::object lookup(py::handle codes_, py::handle index_, py::handle out_) {
  Call call("lookup");
  const Tensor codes = call.in("codes", codes_, kFloat, "K D|Q K D");
  const bool batched = codes.ndim == 3;
  const Tensor index = call.dense("index", index_, kIndex, batched ? "Q|Q N|Q A N|Q A B N" : "N|A N|A B N|A B C N");
  call.check_index("index", index, call.dim('K'), -1);
  const Tensor out = call.out("out", out_, codes.dtype, batched ? kBookCodeShape[index.ndim] : kCodeShape[index.ndim]);
  const int64_t rows = extent_before(index, batched ? 1 : 0, index.ndim);
  TK_RUN(
      call, quantize, lookup,
      quantize::LookupArgs{codes.data, index.as<int64_t>(), out.data, codes.dtype, batched ? call.dim('Q') : 1, rows,
                           call.dim('K'), call.dim('D'), batched ? codes.stride(0) : 0, codes.stride(batched ? 1 : 0)});
  return call.results();
}

int64_t count_of_codes(Call& call, py::handle codes_count_) {
  const int64_t codes = call.set_count("K", 'K', codes_count_);
  if (codes > kMostBookCodes) call.fail_value("K", "below 2^31 (the number of codes)", std::to_string(codes));
  return codes;
}

py::object lookup_backward(py::handle grad_, py::handle index_, py::handle codes_count_, bool batched,
                           py::handle out_) {
  Call call("lookup_backward");
  const Tensor grad =
      call.dense("grad", grad_, kFloat, batched ? "Q D|Q N D|Q A N D|Q A B N D" : "N D|A N D|A B N D|A B C N D");
  const Tensor index =
      call.dense("index", index_, kIndex, batched ? kBookIndexShape[grad.ndim - 1] : kIndexShape[grad.ndim - 1]);
  const int64_t codes = count_of_codes(call, codes_count_);
  call.check_index("index", index, codes, -1);
  const Tensor out = call.out("out", out_, grad.dtype, batched ? "Q K D" : "K D");
  const int64_t rows = extent_before(index, batched ? 1 : 0, index.ndim);
  const int64_t width = call.dim('D');
  TK_RUN(call, quantize, lookup_backward,
         quantize::LookupBackwardArgs{grad.data, index.as<int64_t>(), out.data, grad.dtype, batched ? call.dim('Q') : 1,
                                      1, 1, rows, codes, width, rows * width, width});
  return call.results();
}

py::object rotate_to(py::handle x_, py::handle q_, py::handle eps_, py::handle out_) {
  Call call("rotate_to");
  const Tensor x = call.dense("x", x_, kFloat, "D|N D|A N D|A B N D");
  constexpr const char* kShape[] = {"", "D", "N D", "A N D", "A B N D"};
  const Tensor q = call.dense("q", q_, dtype_bit(x.dtype), kShape[x.ndim]);
  const double eps = call.real("eps", eps_, kLeastNorm, 1.0);
  const Tensor out = call.out("out", out_, x.dtype, kShape[x.ndim]);
  TK_RUN(call, quantize, rotate_to,
         quantize::RotateToArgs{x.data, q.data, out.data, x.dtype, extent_before(x, 0, x.ndim - 1), call.dim('D'),
                                static_cast<float>(eps)});
  return call.results();
}

py::object rotate_to_backward(py::handle grad_, py::handle x_, py::handle q_, py::handle eps_, py::handle out_) {
  Call call("rotate_to_backward");
  const Tensor grad = call.dense("grad", grad_, kFloat, "D|N D|A N D|A B N D");
  constexpr const char* kShape[] = {"", "D", "N D", "A N D", "A B N D"};
  const Tensor x = call.dense("x", x_, dtype_bit(grad.dtype), kShape[grad.ndim]);
  const Tensor q = call.dense("q", q_, dtype_bit(grad.dtype), kShape[grad.ndim]);
  const double eps = call.real("eps", eps_, kLeastNorm, 1.0);
  const Tensor out = call.out("out", out_, grad.dtype, kShape[grad.ndim]);
  TK_RUN(call, quantize, rotate_to_backward,
         quantize::RotateToBackwardArgs{grad.data, x.data, q.data, out.data, grad.dtype,
                                        extent_before(x, 0, x.ndim - 1), call.dim('D'), static_cast<float>(eps)});
  return call.results();
}

// How many layers every row has, and where they differ the count of each.
struct LayerCounts {
  int64_t layers;
  Tensor of_rows;
};

int64_t layer_count(Call& call, py::handle n_q_, int64_t books) {
  if (n_q_.is_none()) return books;
  const int64_t layers = call.integer("n_q", n_q_, 0);
  if (layers > books) call.fail_value("n_q", "in [0, " + std::to_string(books) + "]", std::to_string(layers));
  return layers;
}

LayerCounts layer_counts(Call& call, py::handle n_q_, bool grouped) {
  const int64_t books = call.dim('Q');
  if (n_q_.is_none() || !py::hasattr(n_q_, "__dlpack__")) return {layer_count(call, n_q_, books), {}};
  const Tensor counts = call.dense("n_q", n_q_, kIndex, grouped ? "N|G N" : "N");
  call.check_index("n_q", counts, books + 1);
  return {books, counts};
}

py::object rvq_encode(py::handle x_, py::handle codes_, py::handle n_q_, std::string_view metric_, py::handle index_,
                      py::handle quantized_, py::handle error_) {
  Call call("rvq_encode");
  const Tensor x = call.in("x", x_, kFloat, "N D|G N D");
  const bool grouped = x.ndim == 3;
  const Tensor codes = call.in("codes", codes_, dtype_bit(x.dtype), grouped ? "G Q K D" : "Q K D");
  const int64_t count = call.dim('K');
  if (count < 1 || count > kMostBookCodes) {
    call.fail_value("codes", "at least 1 and below 2^31 codes a book", std::to_string(count));
  }
  const LayerCounts n_q = layer_counts(call, n_q_, grouped);
  const Metric metric = metric_of(call, metric_);
  const Tensor index = call.out("index", index_, DType::i64, grouped ? "G N Q" : "N Q");
  const Tensor quantized = call.out("quantized", quantized_, DType::f32, grouped ? "G N D" : "N D");
  const Tensor error = call.out("error", error_, DType::f32, grouped ? "G N Q" : "N Q");
  const int first = grouped ? 1 : 0;
  TK_RUN(call, quantize, rvq_encode,
         quantize::RvqEncodeArgs{x.data,
                                 codes.data,
                                 n_q.of_rows.as<int64_t>(),
                                 index.as<int64_t>(),
                                 quantized.as<float>(),
                                 error.as<float>(),
                                 x.dtype,
                                 metric,
                                 grouped ? call.dim('G') : 1,
                                 call.dim('N'),
                                 call.dim('Q'),
                                 n_q.layers,
                                 count,
                                 call.dim('D'),
                                 grouped ? x.stride(0) : 0,
                                 x.stride(first),
                                 grouped ? codes.stride(0) : 0,
                                 codes.stride(first),
                                 codes.stride(first + 1),
                                 n_q.of_rows.ndim == 2 ? call.dim('N') : 0});
  return call.results();
}

py::object rvq_decode(py::handle index_, py::handle codes_, py::handle n_q_, py::handle out_) {
  Call call("rvq_decode");
  const Tensor index = call.dense("index", index_, kIndex, "N Q|G N Q");
  const bool grouped = index.ndim == 3;
  const Tensor codes = call.in("codes", codes_, kFloat, grouped ? "G Q K D" : "Q K D");
  const int64_t layers = layer_count(call, n_q_, call.dim('Q'));
  call.check_index("index", index, call.dim('K'), -1);
  const Tensor out = call.out("out", out_, codes.dtype, grouped ? "G N D" : "N D");
  const int first = grouped ? 1 : 0;
  TK_RUN(call, quantize, rvq_decode,
         quantize::RvqDecodeArgs{index.as<int64_t>(), codes.data, out.data, codes.dtype, grouped ? call.dim('G') : 1,
                                 call.dim('N'), call.dim('Q'), layers, call.dim('K'), call.dim('D'),
                                 grouped ? codes.stride(0) : 0, codes.stride(first), codes.stride(first + 1)});
  return call.results();
}

py::object rvq_decode_backward(py::handle grad_, py::handle index_, py::handle codes_count_, py::handle n_q_,
                               py::handle out_) {
  Call call("rvq_decode_backward");
  const Tensor grad = call.in("grad", grad_, kFloat, "N D|G N D");
  const bool grouped = grad.ndim == 3;
  const Tensor index = call.dense("index", index_, kIndex, grouped ? "G N Q" : "N Q");
  const int64_t codes = count_of_codes(call, codes_count_);
  const int64_t layers = layer_count(call, n_q_, call.dim('Q'));
  call.check_index("index", index, codes, -1);
  const Tensor out = call.out("out", out_, grad.dtype, grouped ? "G Q K D" : "Q K D");
  TK_RUN(call, quantize, lookup_backward,
         quantize::LookupBackwardArgs{grad.data, index.as<int64_t>(), out.data, grad.dtype, grouped ? call.dim('G') : 1,
                                      call.dim('Q'), layers, call.dim('N'), codes, call.dim('D'),
                                      grouped ? grad.stride(0) : 0, grad.stride(grouped ? 1 : 0)});
  return call.results();
}

}  // namespace

void bind_quantize_residual(py::module_& m) {
  m.def("lookup", &lookup);
  m.def("lookup_backward", &lookup_backward);
  m.def("rotate_to", &rotate_to);
  m.def("rotate_to_backward", &rotate_to_backward);
  m.def("rvq_encode", &rvq_encode);
  m.def("rvq_decode", &rvq_decode);
  m.def("rvq_decode_backward", &rvq_decode_backward);
}

}  // namespace tk::bind
