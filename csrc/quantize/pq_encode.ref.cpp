// SPDX-License-Identifier: Apache-2.0
#include "quantize/pq_encode.h"

#include <vector>

#include "quantize/nearest.h"

namespace tk::quantize::ref {

void pq_encode(const PqEncodeArgs& a) {
  const int64_t parts = a.search.books;
  const int64_t rows = a.search.rows;
  std::vector<int64_t> index(static_cast<size_t>(parts * rows));
  std::vector<float> best(index.size());
  nearest(NearestArgs{a.search, index.data(), best.data(), nullptr, nullptr});
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t m = 0; m < parts; ++m) {
      const int64_t code = index[static_cast<size_t>(m * rows + n)];
      if (a.bytes) {
        static_cast<uint8_t*>(a.codes)[n * parts + m] = static_cast<uint8_t>(code);
      } else {
        static_cast<int64_t*>(a.codes)[n * parts + m] = code;
      }
    }
  }
}

}  // namespace tk::quantize::ref
