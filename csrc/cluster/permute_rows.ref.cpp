// SPDX-License-Identifier: Apache-2.0
#include "cluster/permute_rows.h"

#include <cstring>

namespace tk::cluster::ref {
namespace {

// copy(row of x, row of out) for every n, in units of bytes.
template <class Rows>
void copy_rows(const PermuteRowsArgs& a, Rows rows) {
  const size_t item = item_size(a.dtype);
  const size_t bytes = a.width * item;
  for (int64_t group = 0; group < a.batch * a.heads; ++group) {
    const int64_t first = group / a.heads * a.batch_stride + group % a.heads * a.head_stride;
    const auto* x = static_cast<const unsigned char*>(a.x) + first * item;
    auto* out = static_cast<unsigned char*>(a.out) + group * a.tokens * bytes;
    for (int64_t n = 0; n < a.tokens; ++n) {
      const auto [from, to] = rows(n, a.perm[group * a.tokens + n]);
      std::memcpy(out + to * bytes, x + from * a.row_stride * item, bytes);
    }
  }
}

struct Move {
  int64_t from, to;
};

}  // namespace

void permute_rows(const PermuteRowsArgs& a) {
  copy_rows(a, [](int64_t n, int64_t row) { return Move{row, n}; });
}

void inverse_permute_rows(const PermuteRowsArgs& a) {
  copy_rows(a, [](int64_t n, int64_t row) { return Move{n, row}; });
}

}  // namespace tk::cluster::ref
