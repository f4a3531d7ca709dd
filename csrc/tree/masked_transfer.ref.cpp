// SPDX-License-Identifier: Apache-2.0
#include "tree/masked_transfer.h"

#include "select/best_first.ref.h"

namespace tk::tree::ref {
namespace {

template <class T>
void transfer_row(const MaskedTransferArgs& a, int64_t row) {
  const std::vector<int64_t> order = selection::ref::best_first<T>(a.from, row);
  const uint8_t* mask = selection::mask_row(a.from, row);
  uint8_t* out = a.out + row * a.from.width;
  std::fill(out, out + a.from.width, uint8_t{0});
  for (int64_t rank = 0; rank < transfer_count(a, row); ++rank) {
    const int64_t j = order[static_cast<size_t>(rank)];
    if (!mask[j]) return;  // so are all after it
    out[j] = rank == 0 || score_key(to_float(selection::score_row<T>(a.from, row)[j])) >= a.least_key;
  }
}

}  // namespace

void masked_transfer(const MaskedTransferArgs& a) {
  for (int64_t row = 0; row < a.from.rows; ++row) {
    TK_FLOAT_SWITCH(a.from.dtype, T, transfer_row<T>(a, row))
  }
}

}  // namespace tk::tree::ref
