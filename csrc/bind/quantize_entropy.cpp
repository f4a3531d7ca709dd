// SPDX-License-Identifier: Apache-2.0
// Family quantize, how evenly codes are used, softly: checked arguments -> launcher, one function per op.
#include <string>
#include <string_view>

#include "bind/bit_order_arg.h"
#include "bind/call.h"
#include "bind/families.h"
#include "quantize/bit_entropy.h"
#include "quantize/bit_entropy_backward.h"
#include "quantize/codebook_entropy.h"
#include "quantize/codebook_entropy_backward.h"
#include "quantize/codebook_lse.h"
#include "quantize/subcode_histogram.h"
#include "quantize/subcode_histogram_backward.h"

namespace tk::bind {
namespace {

constexpr double kMostInverseTemperature = 1e6;
constexpr double kMostBitSlope = 1e9;
constexpr double kLeastGuard = 1e-30;
constexpr int64_t kMostSoftCodes = INT32_MAX;
constexpr int64_t kMostSoftRows = INT32_MAX;

Metric soft_metric(const Call& call, std::string_view metric) {
  if (metric == "dot") return Metric::dot;
  if (metric == "l2") return Metric::l2;
  if (metric == "cosine") return Metric::cosine;
  call.fail_value("metric", "'dot', 'l2' or 'cosine'", std::string("'").append(metric).append("'"));
}

// Rows and codes of all books; what has no book serves every one.
struct SoftBooks {
  Tensor x, codes;
  bool many;
  int64_t books, rows, codes_count, width;
  const char* of_rows() const { return many ? "Q N" : "N"; }
  const char* of_codes() const { return many ? "Q K" : "K"; }
  static int64_t book_stride(const Tensor& t) { return t.ndim == 3 ? t.stride(0) : 0; }
  static int64_t row_stride(const Tensor& t) { return t.stride(t.ndim - 2); }
};

SoftBooks soft_books(Call& call, py::handle x_, py::handle codes_) {
  SoftBooks b{};
  b.x = call.in("x", x_, kFloat, "N D|Q N D");
  b.codes = call.in("codes", codes_, dtype_bit(b.x.dtype), "K D|Q K D");
  b.many = b.x.ndim == 3 || b.codes.ndim == 3;
  b.books = b.many ? call.dim('Q') : 1;
  b.rows = call.dim('N');
  b.codes_count = call.dim('K');
  b.width = call.dim('D');
  if (b.codes_count < 1) call.fail_value("codes", "at least one code", "none");
  if (b.codes_count > kMostSoftCodes) {
    call.fail_value("codes", "less than 2^31 codes", std::to_string(b.codes_count));
  }
  call.check_extents("x", {b.books, b.rows, b.width});
  call.check_extents("codes", {b.books, b.codes_count, b.width});
  if (b.books * b.rows > kMostSoftRows) {
    call.fail_value("x", "less than 2^31 rows", std::to_string(b.books * b.rows));
  }
  return b;
}

float inverse_temperature(const Call& call, py::handle value) {
  return static_cast<float>(call.real("inv_temperature", value, 0.0, kMostInverseTemperature));
}

float bit_slope(const Call& call, py::handle value) {
  return static_cast<float>(call.real("slope", value, -kMostBitSlope, kMostBitSlope));
}

// What keeps a logarithm finite: nothing, or a number that float32 can add.
float guard(const Call& call, const char* name, py::handle value) {
  const double number = call.real(name, value, 0.0, 1.0);
  if (number != 0 && number < kLeastGuard) call.fail_value(name, "0 or in [1e-30, 1]", std::to_string(number));
  return static_cast<float>(number);
}

py::object codebook_entropy(py::handle x_, py::handle codes_, py::handle inv_temperature_, const std::string& metric,
                            py::handle weight_, py::handle log_add_, py::handle log_floor_, py::handle entropy_,
                            py::handle mean_prob_, py::handle lse_) {
  Call call("codebook_entropy");
  const SoftBooks b = soft_books(call, x_, codes_);
  const Tensor weight = call.optional("weight", weight_, kF32, b.many ? "N|Q N" : "N");
  const Metric m = soft_metric(call, metric);
  const float inv_temperature = inverse_temperature(call, inv_temperature_);
  const float log_add = guard(call, "log_add", log_add_);
  const float log_floor = guard(call, "log_floor", log_floor_);
  const Tensor entropy = call.out("entropy", entropy_, DType::f32, b.of_rows());
  const Tensor mean_prob = call.out("mean_prob", mean_prob_, DType::f32, b.of_codes());
  const Tensor lse = call.out("lse", lse_, DType::f32, b.of_rows());
  TK_RUN(call, quantize, codebook_entropy,
         quantize::CodebookEntropyArgs{b.x.data,
                                       b.codes.data,
                                       weight.as<float>(),
                                       entropy.as<float>(),
                                       mean_prob.as<float>(),
                                       lse.as<float>(),
                                       b.x.dtype,
                                       m,
                                       b.books,
                                       b.rows,
                                       b.codes_count,
                                       b.width,
                                       SoftBooks::book_stride(b.x),
                                       SoftBooks::row_stride(b.x),
                                       SoftBooks::book_stride(b.codes),
                                       SoftBooks::row_stride(b.codes),
                                       weight.ndim == 2 ? weight.stride(0) : 0,
                                       inv_temperature,
                                       log_add,
                                       log_floor});
  return call.results();
}

py::object codebook_entropy_backward(py::handle x_, py::handle codes_, py::handle lse_, py::handle grad_entropy_,
                                     py::handle grad_mean_, py::handle grad_lse_, py::handle inv_temperature_,
                                     const std::string& metric, py::handle weight_, py::handle log_add_,
                                     py::handle log_floor_, bool need_x, bool need_codes) {
  Call call("codebook_entropy_backward");
  const SoftBooks b = soft_books(call, x_, codes_);
  const Tensor lse = call.dense("lse", lse_, kF32, b.of_rows());
  const Tensor grad_entropy = call.optional_dense("grad_entropy", grad_entropy_, kF32, b.of_rows());
  const Tensor grad_mean = call.optional_dense("grad_mean", grad_mean_, kF32, b.of_codes());
  const Tensor grad_lse = call.optional_dense("grad_lse", grad_lse_, kF32, b.of_rows());
  const Tensor weight = call.optional("weight", weight_, kF32, b.many ? "N|Q N" : "N");
  const Metric m = soft_metric(call, metric);
  const float inv_temperature = inverse_temperature(call, inv_temperature_);
  const float log_add = guard(call, "log_add", log_add_);
  const float log_floor = guard(call, "log_floor", log_floor_);
  const char* like_x = b.many ? "Q N D" : "N D";
  const char* like_codes = b.many ? "Q K D" : "K D";
  const Tensor grad_x = need_x ? call.out("grad_x", py::none(), b.x.dtype, like_x) : Tensor{};
  const Tensor grad_codes = need_codes ? call.out("grad_codes", py::none(), b.x.dtype, like_codes) : Tensor{};
  if (!need_x && !need_codes) call.fail_value("need", "a gradient that is wanted", "none");
  TK_RUN(call, quantize, codebook_entropy_backward,
         quantize::CodebookEntropyBackwardArgs{b.x.data,
                                               b.codes.data,
                                               weight.as<float>(),
                                               lse.as<float>(),
                                               grad_entropy.as<float>(),
                                               grad_mean.as<float>(),
                                               grad_lse.as<float>(),
                                               grad_x.data,
                                               grad_codes.data,
                                               b.x.dtype,
                                               m,
                                               b.books,
                                               b.rows,
                                               b.codes_count,
                                               b.width,
                                               SoftBooks::book_stride(b.x),
                                               SoftBooks::row_stride(b.x),
                                               SoftBooks::book_stride(b.codes),
                                               SoftBooks::row_stride(b.codes),
                                               weight.ndim == 2 ? weight.stride(0) : 0,
                                               inv_temperature,
                                               log_add,
                                               log_floor});
  return call.results();
}

py::object codebook_lse(py::handle x_, py::handle codes_, py::handle inv_temperature_, const std::string& metric,
                        py::handle lse_, py::handle index_, py::handle best_) {
  Call call("codebook_lse");
  const SoftBooks b = soft_books(call, x_, codes_);
  const Metric m = soft_metric(call, metric);
  const float inv_temperature = inverse_temperature(call, inv_temperature_);
  const Tensor lse = call.out("lse", lse_, DType::f32, b.of_rows());
  const Tensor index = call.out("index", index_, DType::i64, b.of_rows());
  const Tensor best = call.out("best", best_, DType::f32, b.of_rows());
  TK_RUN(call, quantize, codebook_lse,
         quantize::CodebookLseArgs{b.x.data, b.codes.data, lse.as<float>(), index.as<int64_t>(), best.as<float>(),
                                   b.x.dtype, m, b.books, b.rows, b.codes_count, b.width, SoftBooks::book_stride(b.x),
                                   SoftBooks::row_stride(b.x), SoftBooks::book_stride(b.codes),
                                   SoftBooks::row_stride(b.codes), inv_temperature});
  return call.results();
}

constexpr const char* kBitsShape[] = {"", "D", "N D", "A N D", "A B N D"};
constexpr const char* kBitRowsShape[] = {"", "", "N", "A N", "A B N"};

int64_t rows_before_last(const Tensor& x) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < x.ndim; ++i) rows *= x.size(i);
  return rows;
}

py::object bit_entropy(py::handle x_, py::handle slope_, py::handle out_) {
  Call call("bit_entropy");
  const Tensor x = call.dense("x", x_, kFloat, "D|N D|A N D|A B N D");
  const float slope = bit_slope(call, slope_);
  const Tensor out = call.out("out", out_, DType::f32, kBitRowsShape[x.ndim]);
  TK_RUN(call, quantize, bit_entropy,
         quantize::BitEntropyArgs{x.data, out.as<float>(), x.dtype, rows_before_last(x), call.dim('D'), slope});
  return call.results();
}

py::object bit_entropy_backward(py::handle grad_, py::handle x_, py::handle slope_, py::handle out_) {
  Call call("bit_entropy_backward");
  const Tensor x = call.dense("x", x_, kFloat, "D|N D|A N D|A B N D");
  const Tensor grad = call.dense("grad", grad_, kF32, kBitRowsShape[x.ndim]);
  const float slope = bit_slope(call, slope_);
  const Tensor out = call.out("out", out_, x.dtype, kBitsShape[x.ndim]);
  TK_RUN(call, quantize, bit_entropy_backward,
         quantize::BitEntropyBackwardArgs{grad.as<float>(), x.data, out.data, x.dtype, rows_before_last(x),
                                          call.dim('D'), slope});
  return call.results();
}

// Groups of bits; binds S to the number of codes.
Tensor bit_groups(Call& call, py::handle x_) {
  const Tensor x = call.in("x", x_, kFloat, "N G D");
  const int64_t bits = call.dim('D');
  if (bits < 1 || bits > quantize::kMostSubcodeBits) call.fail_value("x", "of 1 to 16 bits", std::to_string(bits));
  call.set('S', int64_t{1} << bits);
  call.check_extents("x", {call.dim('G'), call.dim('S')});
  return x;
}

py::object subcode_histogram(py::handle x_, py::handle slope_, const std::string& order, bool pool, py::handle out_) {
  Call call("subcode_histogram");
  const Tensor x = bit_groups(call, x_);
  const float slope = bit_slope(call, slope_);
  const bool msb = high_bit_first(call, order);
  const Tensor out = call.out("out", out_, DType::f32, pool ? "S" : "G S");
  TK_RUN(call, quantize, subcode_histogram,
         quantize::SubcodeHistogramArgs{x.data, out.as<float>(), x.dtype, call.dim('N'), call.dim('G'), call.dim('D'),
                                        x.stride(0), x.stride(1), slope, msb, pool});
  return call.results();
}

py::object subcode_histogram_backward(py::handle grad_, py::handle x_, py::handle slope_, const std::string& order,
                                      bool pool, py::handle out_) {
  Call call("subcode_histogram_backward");
  const Tensor x = bit_groups(call, x_);
  const Tensor grad = call.dense("grad", grad_, kF32, pool ? "S" : "G S");
  const float slope = bit_slope(call, slope_);
  const bool msb = high_bit_first(call, order);
  const Tensor out = call.out("out", out_, x.dtype, "N G D");
  TK_RUN(
      call, quantize, subcode_histogram_backward,
      quantize::SubcodeHistogramBackwardArgs{grad.as<float>(), x.data, out.data, x.dtype, call.dim('N'), call.dim('G'),
                                             call.dim('D'), x.stride(0), x.stride(1), slope, msb, pool});
  return call.results();
}

}  // namespace

void bind_quantize_entropy(py::module_& m) {
  m.def("codebook_entropy", &codebook_entropy);
  m.def("codebook_entropy_backward", &codebook_entropy_backward);
  m.def("codebook_lse", &codebook_lse);
  m.def("bit_entropy", &bit_entropy);
  m.def("bit_entropy_backward", &bit_entropy_backward);
  m.def("subcode_histogram", &subcode_histogram);
  m.def("subcode_histogram_backward", &subcode_histogram_backward);
}

}  // namespace tk::bind
