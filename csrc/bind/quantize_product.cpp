// SPDX-License-Identifier: Apache-2.0
// Family quantize, product quantization and its scan by tables: checked arguments -> launcher, one function per op.
#include <string>
#include <string_view>

#include "bind/call.h"
#include "bind/families.h"
#include "quantize/adc_scan.h"
#include "quantize/adc_tables.h"
#include "quantize/pq_decode.h"
#include "quantize/pq_encode.h"

namespace tk::bind {
namespace {

constexpr uint32_t kProductCode = dtype_bit(DType::u8) | dtype_bit(DType::i32) | dtype_bit(DType::i64);
constexpr int64_t kMostScanned = INT32_MAX;  // rows, and codes of a part

// The codes (N, M), read in place. They are in range only after check_product_codes.
quantize::ProductCodes product_codes(Call& call, py::handle codes_) {
  const Tensor codes = call.table("codes", codes_, kProductCode, "N M");
  return {codes.data, codes.dtype, codes.size(0), codes.size(1), codes.stride(0)};
}

// Without a branch for a code, so that many are looked at at once.
template <class C>
bool all_below(const C* codes, int64_t size, int64_t count) {
  if constexpr (sizeof(C) == 1) {
    C most = 0;
    for (int64_t i = 0; i < size; ++i) most = codes[i] > most ? codes[i] : most;
    return size == 0 || most < count;
  } else {
    bool fits = true;
    for (int64_t i = 0; i < size; ++i) fits &= codes[i] >= 0 && codes[i] < count;
    return fits;
  }
}

template <class C>
void check_code_rows(const Call& call, const quantize::ProductCodes& codes, int64_t count) {
  const bool close = codes.row_stride == codes.parts;
  if (close && all_below(quantize::row_codes<C>(codes, 0), codes.rows * codes.parts, count)) return;
  for (int64_t n = 0; n < codes.rows; ++n) {
    const C* row = quantize::row_codes<C>(codes, n);
    for (int64_t m = 0; m < codes.parts; ++m) {
      const auto code = static_cast<int64_t>(row[m]);
      if (code >= 0 && code < count) continue;
      call.fail_value("codes", "in [0, " + std::to_string(count) + ")",
                      std::to_string(code) + " in row " + std::to_string(n) + ", part " + std::to_string(m));
    }
  }
}

// Nothing to read where a byte cannot be out of range.
void check_product_codes(const Call& call, const quantize::ProductCodes& codes, int64_t count) {
  if (!Call::on_host() || (codes.dtype == DType::u8 && count > UINT8_MAX)) return;
  TK_CODE_SWITCH(codes.dtype, C, check_code_rows<C>(call, codes, count))
}

// Whether K and the dtype of codes go together.
bool codes_are_bytes(const Call& call, std::string_view dtype, int64_t count) {
  if (dtype == "int64") return false;
  if (dtype != "uint8" && !dtype.empty()) call.fail_value("dtype", "uint8 or int64", std::string(dtype));
  if (dtype.empty()) return count <= 256;
  if (count > 256) {
    call.fail_value("dtype", "int64 for more than 256 centroids of a part", "uint8 for " + std::to_string(count));
  }
  return true;
}

// Rows are M parts of width d.
void check_product_width(Call& call, const char* name, const Tensor& rows) {
  const int64_t parts = call.dim('M');
  const int64_t width = call.dim('D');
  if (rows.size(1) != parts * width) {
    call.fail_value(name, "of rows of " + std::to_string(parts) + " parts of width " + std::to_string(width),
                    std::to_string(rows.size(1)) + " channels");
  }
}

py::object pq_encode(py::handle x_, py::handle centroids_, std::string_view dtype_, py::handle out_) {
  Call call("pq_encode");
  const Tensor x = call.in("x", x_, kFloat, "N C");
  const Tensor centroids = call.in("centroids", centroids_, dtype_bit(x.dtype), "M K D");
  check_product_width(call, "x", x);
  call.check_finite("x", x);
  call.check_finite("centroids", centroids);
  const int64_t count = call.dim('K');
  if (count < 1 || count > kMostScanned) {
    call.fail_value("centroids", "at least 1 and below 2^31 (a part)", std::to_string(count));
  }
  const bool bytes = codes_are_bytes(call, dtype_, count);
  const Tensor out = call.out("out", out_, bytes ? DType::u8 : DType::i64, "N M");
  const quantize::CodeSearch search{
      x.data, centroids.data, x.dtype,       Metric::l2,  call.dim('M'),       call.dim('N'),
      count,  call.dim('D'),  call.dim('D'), x.stride(0), centroids.stride(0), centroids.stride(1)};
  TK_RUN(call, quantize, pq_encode, quantize::PqEncodeArgs{search, out.data, bytes});
  return call.results();
}

py::object pq_decode(py::handle codes_, py::handle centroids_, py::handle out_) {
  Call call("pq_decode");
  const quantize::ProductCodes codes = product_codes(call, codes_);
  const Tensor centroids = call.in("centroids", centroids_, kFloat, "M K D");
  const int64_t width = call.dim('D');
  call.check_extents("centroids", {codes.rows, codes.parts, width});
  call.set('C', codes.parts * width);
  const Tensor out = call.out("out", out_, centroids.dtype, "N C");
  check_product_codes(call, codes, call.dim('K'));
  TK_RUN(call, quantize, pq_decode,
         quantize::PqDecodeArgs{codes, centroids.data, out.data, centroids.dtype, call.dim('K'), width,
                                centroids.stride(0), centroids.stride(1)});
  return call.results();
}

py::object adc_tables(py::handle queries_, py::handle centroids_, std::string_view metric, py::handle out_) {
  Call call("adc_tables");
  const Tensor queries = call.in("queries", queries_, kFloat, "B C");
  const Tensor centroids = call.in("centroids", centroids_, dtype_bit(queries.dtype), "M K D");
  check_product_width(call, "queries", queries);
  if (metric != "l2" && metric != "dot") {
    call.fail_value("metric", "'l2' or 'dot'", std::string("'").append(metric).append("'"));
  }
  call.check_extents("centroids", {call.dim('B'), call.dim('M'), call.dim('K')});
  const Tensor out = call.out("out", out_, DType::f32, "B M K");
  TK_RUN(call, quantize, adc_tables,
         quantize::AdcTablesArgs{queries.data, centroids.data, out.as<float>(), queries.dtype, metric == "dot",
                                 call.dim('B'), call.dim('M'), call.dim('K'), call.dim('D'), queries.stride(0),
                                 centroids.stride(0), centroids.stride(1)});
  return call.results();
}

py::object adc_scan(py::handle codes_, py::handle tables_, py::handle k_, bool largest, py::handle value_,
                    py::handle index_) {
  Call call("adc_scan");
  const quantize::ProductCodes codes = product_codes(call, codes_);
  const Tensor tables = call.dense("tables", tables_, kF32, "B M K");
  if (codes.rows > kMostScanned) call.fail_value("codes", "fewer than 2^31 rows", std::to_string(codes.rows));
  const int64_t k = call.set_count("k", 'J', k_);
  if (k > codes.rows) {
    call.fail_value("k", "at most " + std::to_string(codes.rows) + " (the rows of codes)", std::to_string(k));
  }
  call.check_extents("k", {call.dim('B'), k});
  const Tensor value = call.out("value", value_, DType::f32, "B J");
  const Tensor index = call.out("index", index_, DType::i64, "B J");
  check_product_codes(call, codes, call.dim('K'));
  TK_RUN(call, quantize, adc_scan,
         quantize::AdcScanArgs{codes, tables.as<float>(), value.as<float>(), index.as<int64_t>(), call.dim('B'),
                               call.dim('K'), k, largest});
  return call.results();
}

}  // namespace

void bind_quantize_product(py::module_& m) {
  m.def("pq_encode", &pq_encode);
  m.def("pq_decode", &pq_decode);
  m.def("adc_tables", &adc_tables);
  m.def("adc_scan", &adc_scan);
}

}  // namespace tk::bind
