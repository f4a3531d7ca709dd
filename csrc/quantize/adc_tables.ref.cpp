// SPDX-License-Identifier: Apache-2.0
#include "quantize/adc_tables.h"

namespace tk::quantize::ref {
namespace {

template <class T>
void fill_tables(const AdcTablesArgs& a) {
  float* out = a.tables;
  for (int64_t b = 0; b < a.queries_count; ++b) {
    for (int64_t m = 0; m < a.parts; ++m) {
      const T* q = static_cast<const T*>(a.queries) + b * a.query_stride + m * a.width;
      for (int64_t k = 0; k < a.codes_count; ++k) {
        const T* c = static_cast<const T*>(a.centroids) + m * a.part_stride + k * a.centroid_stride;
        double sum = 0;
        for (int64_t d = 0; d < a.width; ++d) {
          const double difference = static_cast<double>(to_float(q[d])) - to_float(c[d]);
          sum += a.products ? static_cast<double>(to_float(q[d])) * to_float(c[d]) : difference * difference;
        }
        *out++ = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace

void adc_tables(const AdcTablesArgs& a) { TK_FLOAT_SWITCH(a.dtype, T, fill_tables<T>(a)) }

}  // namespace tk::quantize::ref
